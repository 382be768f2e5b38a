package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"time"
)

// serve answers until ctx ends, then lets what is under way come to its end.
func serve(ctx context.Context, s *store) error {
	log.SetFlags(0)
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: ":8080", Handler: logged(routes(s, host)), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	log.Printf("shop %s on %s: %s", version, host, env("GREETING", "ready"))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Print("shop: going down")
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(last); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return srv.Close()
}

func routes(s *store, host string) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.db.PingContext(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer(w, http.StatusOK, "ok")
	})
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		n, err := s.visit(r.Context())
		if err != nil {
			http.Error(w, "cache: "+err.Error(), http.StatusBadGateway)
			return
		}
		answer(w, http.StatusOK, map[string]any{"host": host, "version": version, "visits": n})
	})
	m.HandleFunc("GET /items", func(w http.ResponseWriter, r *http.Request) {
		all, err := s.items(r.Context())
		if err != nil {
			http.Error(w, "database: "+err.Error(), http.StatusBadGateway)
			return
		}
		answer(w, http.StatusOK, all)
	})
	m.HandleFunc("POST /items", func(w http.ResponseWriter, r *http.Request) {
		var i item
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&i); err != nil || i.Name == "" {
			http.Error(w, `want {"name": "...", "cents": 1}`, http.StatusBadRequest)
			return
		}
		if err := s.add(r.Context(), &i); err != nil {
			http.Error(w, "database: "+err.Error(), http.StatusConflict)
			return
		}
		answer(w, http.StatusCreated, i)
	})
	return m
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// logged writes a line per request, but none for health checks.
func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		next.ServeHTTP(w, r)
		if r.URL.Path != "/healthz" {
			log.Printf("%s %s %s", r.Method, r.URL.Path, time.Since(start).Round(10*time.Microsecond))
		}
	})
}
