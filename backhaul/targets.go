package backhaul

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ebbkit/ebb/balance"
)

// TargetHeaders names the HTTP headers in which a client may say where its request goes. An empty
// name is off, so the zero value reads nothing. Lists are separated by commas. Whoever may send
// these headers may aim at single machines: strip them with [TargetHeaders.Remove] from all others.
type TargetHeaders struct {
	ForceMachine  string // machines of which one has to serve
	PreferMachine string // machines that serve while one of them can
	ForceRegion   string
	PreferRegion  string
	Key           string // affinity key
	Revision      string
	// Aliases are names that stand for others in the lists of machines and of regions: "eu" for "ams", "fra".
	Aliases map[string][]string
}

// Bounds on what a header may hold, so that a client cannot make picks expensive.
const (
	maxTargetHeader = 1024 // bytes
	maxTargets      = 16   // names in a list, aliases resolved
)

// Read fills in what the headers say; what they do not mention stays as it is. The error names the
// header that cannot be understood and says why; answer it with 400. Then r is unchanged.
func (h TargetHeaders) Read(from http.Header, r *balance.Request) error {
	var want balance.Want
	if r.Want != nil {
		want = *r.Want
	}
	key := r.Key
	var err error
	text := func(name string, to *string) {
		if v := from.Get(name); name != "" && v != "" && err == nil {
			if len(v) > maxTargetHeader {
				err = fmt.Errorf("backhaul: header %s has %d bytes: want at most %d", name, len(v), maxTargetHeader)
				return
			}
			*to = strings.TrimSpace(v)
		}
	}
	list := func(name string) (names []string) {
		var v string
		text(name, &v)
		for n := range strings.SplitSeq(v, ",") {
			if n = strings.TrimSpace(n); n == "" {
				continue
			}
			if to, ok := h.Aliases[n]; ok {
				names = append(names, to...)
			} else {
				names = append(names, n)
			}
		}
		if err == nil && len(names) > maxTargets {
			err = fmt.Errorf("backhaul: header %s names %d: want at most %d", name, len(names), maxTargets)
		}
		return names
	}
	machines := func(name string, to *[]balance.MachineID) {
		if l := list(name); len(l) > 0 {
			*to = make([]balance.MachineID, len(l))
			for i, n := range l {
				(*to)[i] = balance.MachineID(n)
			}
		}
	}
	regions := func(name string, to *[]string) {
		if l := list(name); len(l) > 0 {
			*to = l
		}
	}
	text(h.Key, &key)
	text(h.Revision, &want.Revision)
	machines(h.ForceMachine, &want.Force.Machines)
	machines(h.PreferMachine, &want.Prefer.Machines)
	regions(h.ForceRegion, &want.Force.Regions)
	regions(h.PreferRegion, &want.Prefer.Regions)
	if err != nil {
		return err
	}
	r.Key = key
	if want.Revision != "" || !want.Force.Empty() || !want.Prefer.Empty() {
		r.Want = &want
	}
	return nil
}

// Remove deletes the headers.
func (h TargetHeaders) Remove(from http.Header) {
	for _, n := range []string{h.ForceMachine, h.PreferMachine, h.ForceRegion, h.PreferRegion, h.Key, h.Revision} {
		if n != "" {
			from.Del(n)
		}
	}
}
