-- LuaSec: lua5.4 client.lua PORT CERTIFICATE UPLOAD
local socket, ssl = require("socket"), require("ssl")
local port, certificate, upload = arg[1], arg[2], arg[3]

local connection = assert(socket.connect("127.0.0.1", tonumber(port)))
connection = assert(ssl.wrap(connection, {mode = "client", protocol = "any", cafile = certificate, verify = "peer"}))
connection:sni("localhost")
assert(connection:dohandshake())

local function exchange(request)
  assert(connection:send(request))
  local length
  repeat
    local line = assert(connection:receive("*l"))
    length = line:lower():match("^content%-length: (%d+)") or length
  until line == ""
  if length then assert(connection:receive(tonumber(length))) end
end

exchange("GET /download HTTP/1.1\r\nHost: localhost\r\n\r\n")
local body = assert(io.open(upload, "rb")):read("*a")
exchange("PUT /upload/body HTTP/1.1\r\nHost: localhost\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
connection:close()
