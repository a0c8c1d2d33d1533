// A client whose proxy speaks TLS: TLS in TLS, on one goroutine.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
)

func main() {
	proxy, _ := url.Parse("https://localhost:" + os.Args[1])
	transport := &http.Transport{
		Proxy:           func(*http.Request) (*url.URL, error) { return proxy, nil },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	client := &http.Client{Transport: transport}
	for _, path := range os.Args[3:] {
		response, err := client.Get("https://localhost:" + os.Args[2] + path)
		if err != nil {
			panic(err)
		}
		n, _ := io.Copy(io.Discard, response.Body)
		fmt.Println(response.Status, n)
	}
}
