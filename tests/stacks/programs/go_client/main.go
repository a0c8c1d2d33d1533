// net/http's client: go_client URL CERTIFICATE UPLOAD [1]; with 1 it offers HTTP/1.1 alone.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"os"
)

func exchange(client *http.Client, method, url string, body []byte) {
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode >= 300 {
		log.Fatal(err, response.Status)
	}
}

func main() {
	certificate, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	upload, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: len(os.Args) < 5}
	client := &http.Client{Transport: transport}
	exchange(client, "GET", os.Args[1]+"/download", nil)
	exchange(client, "PUT", os.Args[1]+"/upload/body", upload)
	client.CloseIdleConnections()
}
