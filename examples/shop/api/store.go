package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/lib/pq"
)

// store is PostgreSQL for what must last and Redis for what may be lost.
type store struct {
	db    *sql.DB
	cache *redis.Pool
}

type item struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Cents int64  `json:"cents"`
}

// migrations are applied once each, in this order.
var migrations = []string{
	`CREATE TABLE items (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, cents bigint NOT NULL CHECK (cents >= 0))`,
	`INSERT INTO items (name, cents) VALUES ('rope', 1250), ('anchor', 48900)`,
	`CREATE INDEX items_by_price ON items (cents)`,
}

func open(ctx context.Context) (*store, error) {
	dbPassword, err := secret("DB_PASSWORD_FILE")
	if err != nil {
		return nil, err
	}
	cachePassword, err := secret("CACHE_PASSWORD_FILE")
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(env("DB_USER", "shop"), dbPassword), Host: env("DB_HOST", "db:5432"),
		Path: "/" + env("DB_NAME", "shop"), RawQuery: "sslmode=disable&connect_timeout=" + env("DB_TIMEOUT", "3") + "&application_name=shop"}
	connector, err := pq.NewConnector(u.String())
	if err != nil {
		return nil, err
	}
	s := &store{db: sql.OpenDB(connector), cache: &redis.Pool{MaxIdle: 4, IdleTimeout: time.Minute,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", env("CACHE_HOST", "cache:6379"), redis.DialPassword(cachePassword),
				redis.DialConnectTimeout(3*time.Second), redis.DialReadTimeout(3*time.Second))
		}}}
	s.db.SetMaxOpenConns(8)
	if err := s.db.PingContext(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("database: %w", err)
	}
	return s, nil
}

func (s *store) close() {
	s.db.Close()
	s.cache.Close()
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// secret reads the file that a variable names.
func secret(variable string) (string, error) {
	b, err := os.ReadFile(env(variable, "/run/secrets/"+strings.ToLower(strings.TrimSuffix(variable, "_FILE"))))
	return strings.TrimSpace(string(b)), err
}

func (s *store) migrate(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// Two jobs at once: the second waits here.
	for _, q := range []string{`SELECT pg_advisory_xact_lock(42)`, `CREATE TABLE IF NOT EXISTS migrations (n int PRIMARY KEY)`} {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	var done int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM migrations`).Scan(&done); err != nil {
		return err
	}
	for n := done; n < len(migrations); n++ {
		if _, err := tx.ExecContext(ctx, migrations[n]); err != nil {
			return fmt.Errorf("migration %d: %w", n, err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO migrations VALUES ($1)`, n); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	fmt.Printf("migrate: %d were there, %d new\n", done, len(migrations)-done)
	return nil
}

func (s *store) seed(ctx context.Context, n int) error {
	for i := range n {
		_, err := s.db.ExecContext(ctx, `INSERT INTO items (name, cents) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`,
			fmt.Sprintf("crate %d", i+1), 100*(i+1))
		if err != nil {
			return err
		}
	}
	all, err := s.items(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("seed: %d goods now\n", len(all))
	return nil
}

func (s *store) items(ctx context.Context) ([]item, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, name, cents FROM items ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []item{}
	for rows.Next() {
		var i item
		if err := rows.Scan(&i.ID, &i.Name, &i.Cents); err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, rows.Err()
}

func (s *store) add(ctx context.Context, i *item) error {
	return s.db.QueryRowContext(ctx, `INSERT INTO items (name, cents) VALUES ($1, $2) RETURNING id`, i.Name, i.Cents).Scan(&i.ID)
}

// visit counts one.
func (s *store) visit(ctx context.Context) (int64, error) {
	conn, err := s.cache.GetContext(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return redis.Int64(redis.DoContext(conn, ctx, "INCR", "visits"))
}
