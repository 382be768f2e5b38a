package network

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// janitor removes links some time after nobody needs them.
type janitor struct {
	room *Room
	wake chan struct{}
	done chan struct{}

	mu  sync.Mutex
	due map[string]time.Time // guarded by mu, by link name
	wg  sync.WaitGroup
}

func newJanitor(r *Room) *janitor {
	j := &janitor{room: r, wake: make(chan struct{}, 1), done: make(chan struct{}), due: map[string]time.Time{}}
	j.wg.Go(j.run)
	return j
}

// later removes the link after a while, if it is still there and its name was
// not taken into use again.
func (j *janitor) later(link string) {
	j.mu.Lock()
	j.due[link] = time.Now().Add(janitorDelay)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *janitor) close() {
	close(j.done)
	j.wg.Wait()
}

func (j *janitor) run() {
	for {
		link, wait := j.next()
		var timer <-chan time.Time
		if link != "" {
			timer = time.After(wait)
		}
		select {
		case <-j.done:
			return
		case <-j.wake:
			continue
		case <-timer:
		}
		j.mu.Lock()
		delete(j.due, link)
		j.mu.Unlock()
		if err := j.room.removeUnused(link); err != nil {
			j.room.log.Warn("remove a link that nobody uses", "link", link, "error", err)
		}
	}
}

// next is the link that is due first and how long until then.
func (j *janitor) next() (string, time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var first string
	for l, t := range j.due {
		if first == "" || t.Before(j.due[first]) {
			first = l
		}
	}
	if first == "" {
		return "", 0
	}
	return first, max(0, time.Until(j.due[first]))
}

// removeUnused removes a link unless a container holds it. The link is found
// first: one that is made under its name after the look at who holds it has
// another index, and is a container's.
func (r *Room) removeUnused(link string) error {
	i, err := r.rt.index(link)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("link %s: %w", link, err)
	}
	r.mu.Lock()
	for _, eps := range r.held {
		for _, e := range eps {
			if e.HostLink == link {
				r.mu.Unlock()
				return nil
			}
		}
	}
	_, limited := r.tapLimits[link]
	delete(r.tapLimits, link)
	r.mu.Unlock()
	if limited { // one that a machine gets meanwhile comes back: tapTablesAgain
		if err := removeTapTable(link); err != nil {
			return err
		}
	}
	if i == 0 {
		return nil
	}
	return r.removeIndex(i, link)
}

// removeStale removes the links of link's container that it does not hold.
func (r *Room) removeStale(link string) error {
	id, ok := attachedID(link)
	if !ok {
		return nil
	}
	for _, l := range r.linksOf(model.ID(id)) {
		if err := r.removeUnused(l); err != nil {
			return err
		}
	}
	return nil
}

// removeLink removes a link now; none there is no error.
func (r *Room) removeLink(name string) error {
	r.mu.Lock()
	_, limited := r.tapLimits[name]
	r.mu.Unlock()
	if limited {
		if err := r.unlimitTap(name); err != nil {
			return err
		}
	}
	i, err := r.rt.index(name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return r.removeIndex(i, name)
}

func (r *Room) removeIndex(i int, name string) error {
	err := r.rt.do(deleteLink(i, name))
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// linksOf lists the host links that carry id in their name.
func (r *Room) linksOf(id model.ID) []string {
	var all []string
	for n := range containerLinkMax {
		if l := hostLink(id, n); r.linkExists(l) {
			all = append(all, l)
		}
	}
	return all
}

func (r *Room) linkExists(name string) bool {
	_, err := r.rt.index(name)
	return err == nil
}

// strayLinks lists the links with our kind of name that are ports of our
// bridges.
func (r *Room) strayLinks() ([]string, error) {
	ours := map[int]bool{}
	r.mu.Lock()
	for _, n := range r.nets {
		if !n.isBridge() {
			continue
		}
		if i, err := r.rt.index(n.link()); err == nil {
			ours[i] = true
		}
	}
	r.mu.Unlock()
	if len(ours) == 0 {
		return nil, nil
	}
	links, err := r.slow.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	var all []string
	for _, l := range links {
		if a := l.Attrs(); (l.Type() == "veth" || l.Type() == "tuntap") && ours[a.MasterIndex] {
			all = append(all, a.Name)
		}
	}
	return all, nil
}
