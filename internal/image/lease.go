package image

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// leaseLabel marks leases of operations of this room, so that Open can drop
// those of a dead daemon.
const leaseLabel = "wharf/operation"

// leaseTime is how long an operation may take before its half-made things may
// be collected.
const leaseTime = 24 * time.Hour

// lease returns a context whose creations are kept until done is called.
func (s *Store) lease(ctx context.Context, what string) (_ context.Context, done func(), err error) {
	ctx = s.ctx(ctx)
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime), leases.WithLabel(leaseLabel, what))
	if err != nil {
		return nil, nil, err
	}
	leased := context.WithValue(leases.WithLease(ctx, l.ID), unleased{}, ctx)
	return leased, func() {
		if err := s.leases.Delete(context.WithoutCancel(ctx), l); err != nil && !errdefs.IsNotFound(err) {
			s.log.WarnContext(ctx, "lease not deleted; it expires by itself", "lease", l.ID, "err", err)
		}
	}, nil
}

// unleased is the key of the context from before the lease.
type unleased struct{}

// hiding is a context without the values that were set since values.
type hiding struct {
	context.Context
	values context.Context
}

func (h hiding) Value(key any) any { return h.values.Value(key) }

// withoutLease hides the operation's lease: an ingest under no lease is kept
// for a day, so that a pull that dies is gone on with by the next.
func withoutLease(ctx context.Context) context.Context {
	if before, ok := ctx.Value(unleased{}).(context.Context); ok {
		return hiding{ctx, before}
	}
	return ctx
}
