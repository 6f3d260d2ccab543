package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const (
	// machinesMax bounds the machines of an app on one node: more is a mistake.
	machinesMax = 10_000
	// keyMin is the least length of a key, so that it cannot be guessed.
	keyMin = 16
)

// check adds the faults of values that are missing, out of range or in contradiction to each other.
func (s *source) check(f *File, role Role) {
	if f.Node == "" {
		s.at("node", "is missing: every node has a name of its own")
	}
	s.region("region", f.Region, f)
	for name, d := range f.Regions {
		if d < 0 {
			s.at("regions."+name, "%v: want the round trip from here, or 0 where it is unknown", d)
		}
	}
	s.keys(f)
	s.engine(f.Engine)
	s.addresses(f, role)
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"grace", f.Grace}, {"expire", f.Expire}} {
		if d.value < 0 {
			s.at(d.field, "%v: want more than 0, or leave it out", d.value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Drivers)) {
		s.driver("drivers."+name, f.Drivers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Apps)) {
		s.app("apps."+name, f.Apps[name], f, role)
	}
	apps := slices.Sorted(maps.Keys(f.Apps))
	for _, host := range slices.Sorted(maps.Keys(f.Hosts)) {
		if app := f.Hosts[host]; !slices.Contains(apps, app) {
			s.at("hosts."+host, "%q: there is no such app%s", app, meant(app, apps))
		}
		if host != strings.ToLower(host) || strings.ContainsAny(host, ":/") {
			s.at("hosts."+host, "%q: want a name in lower case and without a port", host)
		}
	}
}

func (s *source) region(field, name string, f *File) {
	if name == "" {
		s.at(field, "is missing: want one of the regions")
	} else if _, ok := f.Regions[name]; !ok {
		s.at(field, "%q: there is no such region%s; regions lists them", name,
			meant(name, slices.Sorted(maps.Keys(f.Regions))))
	}
}

func (s *source) keys(f *File) {
	if len(f.Keys) == 0 {
		s.at(
			"keys", "are missing: want one, such as openssl rand -base64 32 prints, the same on all nodes",
		)
	}
	for i, k := range f.Keys {
		if len(k) < keyMin { // the key is not shown: many people read logs
			s.at("keys", "number %d has %d bytes: want at least %d", i+1, len(k), keyMin)
		}
	}
}

func (s *source) engine(e Engine) {
	switch {
	case e.URL == "" && e.Dir == "":
		s.at("engine.url", "is missing: want where the NATS server is, such as nats://127.0.0.1:4222; "+
			"or engine.dir, for one in this process")
	case e.URL != "" && e.Dir != "":
		s.at("engine.dir", "%q: the server is at engine.url: leave one", e.Dir)
	case e.Dir == "" && e.Listen != "":
		s.at("engine.listen", "%q: there is no server in this process: set engine.dir", e.Listen)
	case e.Credentials != "" && e.NKey != "":
		s.at("engine.nkey", "%q: there are engine.credentials: leave one", e.NKey)
	}
	if e.URL == "" {
		return
	}
	for u := range strings.SplitSeq(e.URL, ",") {
		if at, err := url.Parse(strings.TrimSpace(u)); err != nil || at.Host == "" {
			s.at("engine.url", "%q: want an address such as nats://127.0.0.1:4222", u)
		}
	}
}

func (s *source) addresses(f *File, role Role) {
	for _, a := range []struct{ field, addr, why string }{
		{"listen", f.Listen, need(role != RoleWorker, "clients come there")},
		{"hop", f.Hop, need(role != RoleEdge, "edges come there")},
		{"status", f.Status, ""}, {"probe", f.Probe, ""}, {"relay", f.Relay, ""},
	} {
		if a.addr == "" {
			if a.why != "" {
				s.at(a.field, "is missing: want an address such as 127.0.0.1:8080; %s", a.why)
			}
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			s.at(a.field, "%q: want an address and a port, such as 127.0.0.1:8080", a.addr)
		}
	}
}

func need(needed bool, why string) string {
	if needed {
		return why
	}
	return ""
}

func (s *source) driver(field string, d Driver) {
	switch {
	case d.Command == "" && len(d.Argv) == 0:
		s.at(field, "has no command: want command or argv")
	case d.Command != "" && len(d.Argv) > 0:
		s.at(field, "has command and argv: leave one")
	case d.StopTimeout < 0:
		s.at(field+".stop_timeout", "%v: want more than 0, or leave it out", d.StopTimeout)
	}
	for _, kv := range d.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			s.at(field+".env", "%q: want KEY=value", kv)
		}
	}
}

func (s *source) app(field string, a App, f *File, role Role) {
	drivers := slices.Sorted(maps.Keys(f.Drivers))
	switch {
	case a.Driver != "" && !slices.Contains(drivers, a.Driver):
		s.at(field+".driver", "%q: there is no such driver%s", a.Driver, meant(a.Driver, drivers))
	case a.Driver == "" && a.Machines > 0 && role != RoleEdge:
		s.at(
			field+".driver", "is missing: want what runs its machines, one of %s",
			strings.Join(drivers, ", "),
		)
	}
	for _, r := range a.Regions {
		s.region(field+".regions", r, f)
	}
	for _, n := range []struct {
		name        string
		value, most int
	}{
		{"machines", a.Machines, machinesMax}, {"soft", a.Soft, 1 << 20}, {"hard", a.Hard, 1 << 20},
		{"min", a.Min, 1 << 20}, {"max", a.Max, 1 << 20},
	} {
		if n.value < 0 || n.value > n.most {
			s.at(field+"."+n.name, "%d: want 0 to %d", n.value, n.most)
		}
	}
	if a.Hard > 0 && a.Soft > a.Hard {
		s.at(field+".soft", "%d: want at most hard, which is %d", a.Soft, a.Hard)
	}
	if a.Max > 0 && a.Min > a.Max {
		s.at(field+".min", "%d: want at most max, which is %d", a.Min, a.Max)
	}
	if _, err := a.autostop(); err != nil {
		s.at(field+".autostop", "%q: want off, stop or suspend", a.Autostop)
	}
	if a.KeepAlive < 0 || a.Boot < 0 {
		s.at(field, "keep_alive %v, boot %v: want more than 0, or leave them out", a.KeepAlive, a.Boot)
	}
	if a.Check != "" && a.Check[0] != '/' {
		s.at(field+".check", "%q: want a path, such as /healthz", a.Check)
	}
}

func (a App) autostop() (stop balance.Autostop, err error) {
	if a.Autostop == "" {
		return balance.AutostopStop, nil
	}
	err = stop.UnmarshalText([]byte(a.Autostop))
	return stop, err
}

// Balance returns the app as the fleet knows it.
func (a App) Balance(id string) balance.App {
	stop, err := a.autostop()
	if err != nil {
		panic(fmt.Sprintf("config: app %q was not checked: %v", id, err))
	}
	return balance.App{
		ID: balance.AppID(id), Autostart: true, Autostop: stop, Min: a.Min, Max: a.Max,
		Regions: a.Regions, Limits: balance.Limits{Soft: a.Soft, Hard: a.Hard}, BootHint: a.Boot,
		KeepAlive: a.KeepAlive, FinishAbandoned: a.Finish,
	}
}
