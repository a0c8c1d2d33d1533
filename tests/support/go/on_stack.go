// Reads into a buffer on a goroutine's stack, which moves while the Read makes the handshake: on_stack server
// CERTIFICATE KEY. It prints its port, and ends with its first connection.
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func answer(secure *tls.Conn, path chan string) {
	var request [1000]byte // of tls.Conn's own Read the compiler knows that it keeps nothing
	n, err := secure.Read(request[:])
	if err != nil {
		close(path)
		return
	}
	path <- strings.Fields(string(request[:n]))[1]
}

func main() {
	pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	plain, err := listener.Accept()
	check(err)
	secure := tls.Server(plain, &tls.Config{Certificates: []tls.Certificate{pair}})
	for {
		asked := make(chan string)
		go answer(secure, asked)
		path, more := <-asked
		if !more {
			break
		}
		_, err = fmt.Fprintf(secure, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
		check(err)
	}
}
