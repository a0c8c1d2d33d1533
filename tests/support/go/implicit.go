// TLS whose handshake happens inside the first Read or Write: implicit client PORT | server CERTIFICATE KEY.
// The server prints its port, and ends with its first connection.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ask(port string) {
	plain, err := net.Dial("tcp", "127.0.0.1:"+port)
	check(err)
	secure := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
	reader := bufio.NewReader(secure)
	for _, path := range []string{"/bytes/17", "/bytes/18"} {
		_, err = fmt.Fprintf(secure, "GET %s HTTP/1.1\r\nHost: localhost:%s\r\n\r\n", path, port)
		check(err)
		response, err := http.ReadResponse(reader, nil)
		check(err)
		_, err = io.Copy(io.Discard, response.Body)
		check(err)
	}
	check(secure.Close())
}

func answer(certificate, key string) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	check(err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	secure, err := listener.Accept()
	check(err)
	reader := bufio.NewReader(secure)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			break
		}
		_, err = fmt.Fprintf(secure, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(request.URL.Path), request.URL.Path)
		check(err)
	}
	check(secure.Close())
}

func main() {
	if os.Args[1] == "client" {
		ask(os.Args[2])
	} else {
		answer(os.Args[2], os.Args[3])
	}
}
