// Command goprogram is what tests build from source: it serves, asks itself,
// and prints what came back.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"example.org/goprogram/words"
)

var version = "unset"

func main() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(words.Count(string(text)))
	}))
	defer srv.Close()
	resp, err := http.Post(srv.URL, "text/plain", os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer resp.Body.Close()
	out, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s %s", version, out)
}
