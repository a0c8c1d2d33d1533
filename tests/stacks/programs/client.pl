# libwww-perl over Net::SSLeay: perl client.pl URL CERTIFICATE UPLOAD
use strict;
use warnings;
use LWP::UserAgent;

my ($url, $certificate, $upload) = @ARGV;
my $agent = LWP::UserAgent->new(keep_alive => 1, ssl_opts => {SSL_ca_file => $certificate});
open(my $file, '<:raw', $upload) or die;
my $body = do { local $/; <$file> };
for my $response ($agent->get("$url/download"), $agent->put("$url/upload/body", Content => $body)) {
    die $response->status_line unless $response->is_success;
}
