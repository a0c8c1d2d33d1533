# Puma: answers with the file that DOWNLOAD names, and takes what is put.
run(lambda do |request|
  request["rack.input"].read
  body = request["REQUEST_METHOD"] == "GET" ? File.binread(ENV.fetch("DOWNLOAD")) : ""
  [200, { "Content-Length" => body.bytesize.to_s }, [body]]
end)
