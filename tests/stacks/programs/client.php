<?php
// PHP's https stream wrapper: php client.php URL CERTIFICATE UPLOAD
[, $url, $certificate, $upload] = $argv;
$tls = ['cafile' => $certificate];
$put = ['method' => 'PUT', 'content' => file_get_contents($upload)];
foreach (['/download' => [], '/upload/body' => $put] as $path => $http) {
    if (file_get_contents($url . $path, false, stream_context_create(['ssl' => $tls, 'http' => $http])) === false) {
        exit(1);
    }
}
