package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"wharf/internal/lifecycle"
	"wharf/internal/model"
)

// checks are the rooms that fsck asks, beside lifecycle and the drivers.
func (r *rooms) checks() map[string]lifecycle.Checker {
	return map[string]lifecycle.Checker{
		"record": r.records, "image": r.images, "network": r.networks, "volume": r.volumes, "build": buildCheck{r},
	}
}

// buildCheck asks the build room, which comes after lifecycle.
type buildCheck struct{ *rooms }

func (c buildCheck) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	return c.builds.Fsck(ctx, records)
}

func (c buildCheck) Repair(ctx context.Context, f model.Finding) error {
	return c.builds.Repair(ctx, f)
}

// fsckRoute adds the examination: GET looks, POST ?repair=1 repairs too.
// ?container=ID, once or more, asks only about those, known or gone.
func (r *rooms) fsckRoute(mux *http.ServeMux) {
	do := func(w http.ResponseWriter, q *http.Request, repair bool) {
		w.Header().Set("Content-Type", "application/json")
		var ids []model.ID
		for _, id := range q.URL.Query()["container"] {
			ids = append(ids, model.ID(id))
		}
		report, err := r.engine.Fsck(q.Context(), repair, ids...)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": "fsck: " + err.Error()})
			return
		}
		_ = json.NewEncoder(w).Encode(report)
	}
	mux.HandleFunc("GET /wharf/v1/fsck", func(w http.ResponseWriter, q *http.Request) { do(w, q, false) })
	mux.HandleFunc("POST /wharf/v1/fsck", func(w http.ResponseWriter, q *http.Request) {
		repair, _ := strconv.ParseBool(q.URL.Query().Get("repair"))
		do(w, q, repair)
	})
}
