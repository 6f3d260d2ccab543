package config

import (
	"bytes"
	"context"
	"os"
	"path"
	"reflect"
	"time"
)

// Watcher reads a configuration again.
type Watcher struct {
	Name string
	Role Role
	// Again has it read at once; SIGHUP is commonly sent there.
	Again <-chan os.Signal
	// Every is how often the file is looked at; 0 means 1s. It is read, not watched: that sees what
	// editors, links and mounted volumes do, on every system.
	Every time.Duration
	// Changed is called with each configuration that differs from the last one, in turn.
	Changed func(before, after *File)
	// Refused is called with each one that is wrong: the last one holds.
	Refused func(error)
}

// Run reads again until ctx ends, and returns nil. f is what holds.
func (w Watcher) Run(ctx context.Context, f *File) error {
	every := w.Every
	if every <= 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	text, _ := os.ReadFile(w.Name) // an error shows at the next look
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.Again:
			asked = true
		}
		now, err := os.ReadFile(w.Name)
		if err != nil {
			if asked { // between the two halves of a change it is commonly missing
				w.Refused(err)
			}
			continue
		}
		if bytes.Equal(now, text) && !asked {
			continue
		}
		text = now
		after, err := Parse(path.Base(w.Name), text, w.Role)
		if err != nil {
			w.Refused(err)
			continue
		}
		if !reflect.DeepEqual(f, after) {
			before := f
			f = after
			w.Changed(before, after)
		}
	}
}

// Fixed names the fields that differ and hold from the next start only.
func Fixed(before, after *File) (fields []string) {
	a, b := reflect.ValueOf(*before), reflect.ValueOf(*after)
	for i := range a.NumField() {
		switch key := a.Type().Field(i).Tag.Get("yaml"); key {
		case "apps", "drivers", "hosts":
		default:
			if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
				fields = append(fields, key)
			}
		}
	}
	return fields
}
