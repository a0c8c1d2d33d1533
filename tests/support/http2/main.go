// A hundred requests at once over one HTTP/2 connection: main URL CERTIFICATE. Prints what came back, a line each.
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
)

func ask(client *http.Client, url string, n int) {
	upload := bytes.Repeat([]byte(fmt.Sprintf("upload %d ", n)), n*37)
	request, err := http.NewRequest("PUT", fmt.Sprintf("%s/bytes?n=%d&trailers", url, n*1013), io.NopCloser(bytes.NewReader(upload)))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("X-Number", fmt.Sprint(n))
	request.Trailer = http.Header{"X-Upload": {fmt.Sprint(n)}}
	response, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d %s %x %x %s\n", n, response.Proto, sha256.Sum256(upload), sha256.Sum256(body), response.Trailer.Get("X-Sum"))
}

func main() {
	certificate, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	ask(client, os.Args[1], 0)
	var all sync.WaitGroup
	for n := 1; n < 100; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			ask(client, os.Args[1], n)
		}(n)
	}
	all.Wait()
	client.CloseIdleConnections()
}
