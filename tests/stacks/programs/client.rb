# Ruby's net/http: ruby client.rb URL CERTIFICATE UPLOAD
require "net/http"

url, certificate, upload = ARGV
uri = URI(url)
Net::HTTP.start(uri.host, uri.port, use_ssl: true, ca_file: certificate) do |http|
  http.request_get("/download").value
  http.send_request("PUT", "/upload/body", File.binread(upload)).value
end
