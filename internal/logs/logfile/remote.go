package logfile

import (
	"errors"
	"strconv"

	"wharf/internal/logs/logopts"
)

// A driver that sends elsewhere has two parts: a copy of the output in the
// format of the driver local, which `docker logs` reads, and the way out. That
// is in this process for datagrams and local sockets, which cannot hold the
// container up for long, and else the process wharf-logger, which follows the
// copy. See docs/decisions/log-shipping.md.

// spool is the copy when the user wants none (cache-disabled): small, in the
// instance's directory, which is in memory and goes with the instance.
const spool = "spool.log"

// openRemote opens the copy and the way out.
func openRemote(p Plan, lose loser) (sink, error) {
	c, err := logopts.ParseCache(p.Options)
	if err != nil {
		return nil, err
	}
	shipped := logopts.Shipped(p.Driver, p.Options)
	if c.Disabled && shipped {
		p.Path, c.File = spool, logopts.File{MaxSize: 2 << 20, MaxFile: 2}
	}
	var kept sink = none{}
	if p.Path != "" && (shipped || !c.Disabled) {
		if kept, err = openLocal(copyOf(p, c.File), lose); err != nil {
			return nil, err
		}
	}
	if shipped {
		s, err := startShipper(p)
		if err != nil {
			return nil, errors.Join(err, kept.close())
		}
		return &followed{kept, s}, nil
	}
	to, err := openDirect(p, lose)
	if err != nil {
		return nil, errors.Join(err, kept.close())
	}
	return &direct{to, kept}, nil
}

func openDirect(p Plan, lose loser) (sender, error) {
	if p.Driver == logopts.Journald {
		return openJournald(p, lose)
	}
	return openSyslog(p, lose)
}

// copyOf is the plan of the copy.
func copyOf(p Plan, f logopts.File) Plan {
	return Plan{Driver: logopts.Local, Path: p.Path, Attrs: p.Attrs, Options: map[string]string{
		"max-size": strconv.FormatInt(f.MaxSize, 10), "max-file": strconv.Itoa(f.MaxFile), "compress": strconv.FormatBool(f.Compress),
	}}
}

// direct sends what it keeps.
type direct struct {
	to   sender
	kept sink
}

func (d *direct) add(e entry)  { d.kept.add(e); d.to.add(e) }
func (d *direct) commit()      { d.kept.commit(); d.to.commit() }
func (d *direct) close() error { return errors.Join(d.kept.close(), d.to.close()) }
func (d *direct) sends()       {}

// followed is a copy that wharf-logger follows.
type followed struct {
	sink
	s *shipper
}

func (f *followed) close() error {
	err := f.sink.close()
	f.s.end()
	return err
}
