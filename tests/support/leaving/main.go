// leaving PORT WRITES LENGTH HANDSHAKE: a client that exits while it is inside of tls.Conn's Write: from below it, when so
// many writes have sent what it was given.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

type leaving struct {
	net.Conn
	left int
}

func (l *leaving) Write(data []byte) (int, error) {
	n, err := l.Conn.Write(data)
	if l.left--; l.left == 0 {
		os.Exit(0)
	}
	return n, err
}

func main() {
	plain, err := net.Dial("tcp", "localhost:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	below := &leaving{Conn: plain}
	conn := tls.Client(below, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	if os.Args[4] == "first" {
		if err := conn.Handshake(); err != nil {
			panic(err)
		}
	}
	below.left, _ = strconv.Atoi(os.Args[2])
	length, _ := strconv.Atoi(os.Args[3])
	head := fmt.Sprintf("PUT /left HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", length)
	conn.Write([]byte(head + strings.Repeat("x", length)))
	io.Copy(os.Stdout, conn)
	os.Exit(1)
}
