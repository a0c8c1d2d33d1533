// tunnels_end PORT CERTIFICATE KEY: a proxy that speaks TLS, and is itself the server in its tunnels: of /bytes/N.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func serve(conn net.Conn, config *tls.Config) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	inner := tls.Server(conn, config)
	requests := bufio.NewReader(inner)
	for {
		request, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		var n int
		fmt.Sscanf(request.URL.Path, "/bytes/%d", &n)
		body := strings.Repeat("0123456789", n/10+1)[:n]
		fmt.Fprintf(inner, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body)
	}
}

func main() {
	pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	if err != nil {
		panic(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	listener, err := tls.Listen("tcp", "localhost:"+os.Args[1], config)
	if err != nil {
		panic(err)
	}
	for {
		conn, err := listener.Accept()
		if err == nil {
			go serve(conn, config)
		}
	}
}
