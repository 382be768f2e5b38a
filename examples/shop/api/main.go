// Command shop is the example's service: a few goods in PostgreSQL, a counter
// in Redis, JSON over HTTP.
//
//	shop serve      answer on :8080 until SIGTERM
//	shop migrate    bring the database's tables up to date, then end
//	shop seed N     add N goods, then end
//	shop health     exit 0 if the server in this container is healthy
//
// Where things are comes from the environment, passwords from files (see
// compose.yaml).
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// version is set by the linker; the example runs two of them.
var version = "dev"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want serve, migrate, seed N or health")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if args[0] == "health" {
		return health(ctx)
	}
	s, err := open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	switch args[0] {
	case "serve":
		return serve(ctx, s)
	case "migrate":
		return s.migrate(ctx)
	case "seed":
		n := 3
		if len(args) > 1 {
			if n, err = strconv.Atoi(args[1]); err != nil {
				return err
			}
		}
		return s.seed(ctx, n)
	}
	return fmt.Errorf("%q: want serve, migrate, seed N or health", args[0])
}

// health asks the server in the same container.
func health(ctx context.Context) error {
	seconds, err := strconv.Atoi(env("DB_TIMEOUT", "3"))
	if err != nil {
		return fmt.Errorf("DB_TIMEOUT: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
