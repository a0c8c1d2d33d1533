<?php
// PHP's curl: php curl.php URL CERTIFICATE UPLOAD
[, $url, $certificate, $upload] = $argv;
$curl = curl_init();
curl_setopt_array($curl, [CURLOPT_URL => "$url/download", CURLOPT_CAINFO => $certificate, CURLOPT_RETURNTRANSFER => true]);
if (curl_exec($curl) === false) exit(1);
curl_setopt_array($curl, [
    CURLOPT_URL => "$url/upload/body",
    CURLOPT_UPLOAD => true,
    CURLOPT_INFILE => fopen($upload, "rb"),
    CURLOPT_INFILESIZE => filesize($upload),
]);
if (curl_exec($curl) === false) exit(1);
