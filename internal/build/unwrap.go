package build

import (
	"context"
	"reflect"
	"sync"

	bkexecutor "github.com/moby/buildkit/executor"
)

// raw takes BuildKit's wrappers off a reference: they mount a writable overlay
// on the host and hand out a bind of that, which cannot be shown with a
// container's ids. What is below is the overlay's description, and the monitor
// mounts it for the step alone. The wrappers embed what they wrap as an
// exported field; TestRaw holds BuildKit to that.
func raw(ref bkexecutor.MountableRef) bkexecutor.MountableRef {
	for {
		v := reflect.ValueOf(ref)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			return ref
		}
		f := v.Elem().FieldByName("Mountable")
		if !f.IsValid() || !f.CanInterface() {
			return ref
		}
		inner, ok := f.Interface().(bkexecutor.MountableRef)
		if !ok {
			return ref
		}
		ref = inner
	}
}

// uppers keeps two steps from mounting the same upper directory at once (a
// shared cache mount with content of an image): the kernel leaves undefined
// what would happen.
type uppers struct {
	mu   sync.Mutex
	used map[string]chan struct{}
}

// take waits until nobody has dir.
func (u *uppers) take(ctx context.Context, dir string) (give func() error, err error) {
	for {
		u.mu.Lock()
		busy := u.used[dir]
		if busy == nil {
			free := make(chan struct{})
			if u.used == nil {
				u.used = map[string]chan struct{}{}
			}
			u.used[dir] = free
			u.mu.Unlock()
			return func() error {
				u.mu.Lock()
				defer u.mu.Unlock()
				delete(u.used, dir)
				close(free)
				return nil
			}, nil
		}
		u.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
