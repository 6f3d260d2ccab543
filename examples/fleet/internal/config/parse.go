package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Role says what a configuration is for.
type Role string

// The roles.
const (
	RoleEdge   Role = "edge"
	RoleWorker Role = "worker"
	RoleBoth   Role = "node"
)

// sizeMax bounds a file in bytes: a longer one is not a configuration.
const sizeMax = 1 << 20

// Read reads a configuration for a role. The error has one line for each fault.
func Read(name string, role Role) (*File, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Parse(path.Base(name), text, role)
}

// Parse is like Read for the text of a file.
func Parse(name string, text []byte, role Role) (*File, error) {
	if len(text) > sizeMax {
		return nil, fmt.Errorf("%s has %d bytes: want at most %d", name, len(text), sizeMax)
	}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&doc); err != nil {
		if err == io.EOF {
			return nil, fmt.Errorf("%s is empty: say at least node, region, keys and engine", name)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return nil, fmt.Errorf("%s has a second document: leave one", name)
	}
	s := &source{name: name, lines: map[string]int{}}
	s.walk(doc.Content[0], reflect.TypeFor[File](), "")
	f := new(File)
	if err := doc.Decode(f); err != nil {
		s.refused(err)
		return nil, s.err()
	}
	s.check(f, role)
	if err := s.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// source is a file that is being read, with the faults found in it.
type source struct {
	name   string
	lines  map[string]int // of each field
	faults []fault
}

type fault struct {
	line int
	text string
}

func (s *source) err() error {
	slices.SortStableFunc(s.faults, func(a, b fault) int { return a.line - b.line })
	errs := make([]error, len(s.faults))
	for i, f := range s.faults {
		errs[i] = fmt.Errorf("%s:%d: %s", s.name, max(1, f.line), f.text)
	}
	return errors.Join(errs...)
}

// at adds a fault of a field. A field that is missing gets the line of its parent.
func (s *source) at(field, format string, args ...any) {
	line := 1
	for at := field; at != ""; {
		if n, ok := s.lines[at]; ok {
			line = n
			break
		}
		at = at[:max(0, strings.LastIndexByte(at, '.'))]
	}
	s.faults = append(s.faults, fault{line, field + ": " + fmt.Sprintf(format, args...)})
}

// refused adds the faults that the YAML decoder found.
func (s *source) refused(err error) {
	of, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		s.faults = append(s.faults, fault{1, err.Error()})
		return
	}
	for _, text := range of.Errors {
		line := 1
		if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
			_, text, _ = strings.Cut(text, ": ")
		}
		s.faults = append(s.faults, fault{line, text})
	}
}

// walk records the line of each field, and finds unknown ones.
func (s *source) walk(n *yaml.Node, t reflect.Type, at string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode || t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
		return // the library checks the values
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := strings.TrimPrefix(at+"."+key.Value, ".")
		if key.Tag == "!!merge" {
			s.walk(value, t, at)
			continue
		}
		s.lines[field] = key.Line
		if t.Kind() == reflect.Map {
			s.walk(value, t.Elem(), field)
			continue
		}
		fields := keysOf(t)
		if sub, ok := fields[key.Value]; ok {
			s.walk(value, sub, field)
			continue
		}
		known := slices.Sorted(maps.Keys(fields))
		s.at(field, "there is no such key%s", meant(key.Value, known))
	}
}

func keysOf(t reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for f := range t.Fields() {
		keys[f.Tag.Get("yaml")] = f.Type
	}
	return keys
}

// meant returns the remedy for an unknown name: the nearest known one if one is near, else all.
func meant(name string, names []string) string {
	best, least := "", len(name)/2+1
	for _, n := range names {
		if d := distance(name, n); d < least {
			best, least = n, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf(": did you mean %q?", best)
	case len(names) == 0:
		return ": there is none at all"
	}
	return ": want one of " + strings.Join(names, ", ")
}

// distance returns how many letters are replaced, missing, added or swapped with their neighbour.
func distance(a, b string) int {
	before, row := []int(nil), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
