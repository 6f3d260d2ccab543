package config

import (
	"bytes"
	"context"
	"os"
	"path"
	"reflect"
	"time"
)

// Watcher reads a configuration again when it changes.
type Watcher struct {
	Name string
	Role Role
	// Again has it read at once; usually SIGHUP is sent there.
	Again <-chan os.Signal
	// Every is how often the file is read; 0 means 1s. Polling, unlike watching, sees what editors,
	// links and mounted volumes do on every system.
	Every time.Duration
	// Changed is called with each configuration that differs from the last one, one call at a time.
	Changed func(before, after *File)
	// Refused is called with the error of each faulty one; the last good one stays in force.
	Refused func(error)
}

// Run reads again until ctx ends, and returns nil. f is the configuration in force.
func (w Watcher) Run(ctx context.Context, f *File) error {
	every := w.Every
	if every <= 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	text, _ := os.ReadFile(w.Name) // the next read shows an error
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
			if asked { // in the middle of a change the file is commonly missing
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

// Fixed names the changed fields that take effect at the next start only.
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
