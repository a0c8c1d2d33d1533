// TLS over connections that others wrap, as servers do that look at the first byte, and limiters and counters:
// wrapped client PORT | server CERTIFICATE KEY. The server prints its port, and ends with its first connection.
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

// The connection is neither the first member nor directly below.
type counted struct {
	bytes int64
	name  string
	net.Conn
}

func (c *counted) Read(buffer []byte) (int, error) {
	n, err := c.Conn.Read(buffer)
	c.bytes += int64(n)
	return n, err
}

// One whose first byte was taken.
type peeked struct {
	first []byte
	net.Conn
}

func (c *peeked) Read(buffer []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(buffer, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(buffer)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ask(port string) {
	plain, err := net.Dial("tcp", "127.0.0.1:"+port)
	check(err)
	secure := tls.Client(&counted{0, "outer", &counted{0, "inner", plain}}, &tls.Config{InsecureSkipVerify: true})
	check(secure.Handshake())
	reader := bufio.NewReader(secure)
	for _, path := range []string{"/bytes/17", "/bytes/100003"} {
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
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	plain, err := listener.Accept()
	check(err)
	first := make([]byte, 1)
	_, err = plain.Read(first)
	check(err)
	secure := tls.Server(&counted{0, "outer", &peeked{first, plain}}, &tls.Config{Certificates: []tls.Certificate{pair}})
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
