// serve CERTIFICATE KEY: an HTTPS server on a free port, which it prints. ask URL CERTIFICATE: a client that sends
// each line of its input as a request's path on one connection, and prints the answer's body.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(certificate, key string) {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "answer to %s", r.URL.Path)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	must(http.ServeTLS(listener, nil, certificate, key))
}

func ask(url, certificate string) {
	text, err := os.ReadFile(certificate)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		response, err := client.Get(url + lines.Text())
		must(err)
		body, err := io.ReadAll(response.Body)
		must(err)
		response.Body.Close()
		fmt.Println(string(body))
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3])
	} else {
		ask(os.Args[2], os.Args[3])
	}
}
