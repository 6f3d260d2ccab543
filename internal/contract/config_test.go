package contract

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/grants"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/rtt"
)

// config is a configuration that is valid as it stands, and what makes something of it.
type config struct {
	folder string // of its package
	value  any    // a pointer to it
	make   func() error
}

// configs are all configurations that a user can write.
func configs(t *testing.T) (all []config) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := balance.New(f, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	add := func(folder string, value any, make func() error) { all = append(all, config{folder, value, make}) }

	fleet := &balance.FleetConfig{Node: "n", Region: "nrt"}
	add("balance", fleet, func() error { _, err := balance.NewFleet(*fleet); return err })
	trace := &balance.Trace{}
	add(
		"balance", trace,
		func() error { _, err := balance.New(f, balance.Config{Trace: *trace}); return err },
	)
	granter := &grants.Config{Give: func(balance.NodeID, balance.Grant) {}}
	add("balance/grants", granter, func() error { _, err := grants.New(f, *granter); return err })
	link := &exchange.Config{}
	add(
		"balance/exchange", link,
		func() error { _, err := exchange.New(f, newMemory(), *link); return err },
	)
	app := &balance.App{ID: "web"}
	add("balance", app, func() error { return f.Apply(balance.PutApp{App: *app}) })
	limits := &balance.Limits{}
	add(
		"balance", limits,
		func() error { return f.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: *limits}}) },
	)

	auto := &autostart.Config{}
	add("autostart", auto, func() error { _, err := autostart.New(b, nil, *auto); return err })
	starter := &machine.Config{}
	add(
		"autostart/machine", starter,
		func() error { _, err := machine.NewStarter(f, &machinetest.Fake{}, *starter); return err },
	)
	check := &machine.Check{}
	add("autostart/machine", check, func() error {
		_, err := machine.NewStarter(f, &machinetest.Fake{}, machine.Config{Check: *check})
		return err
	})
	children := &process.Config{Command: "true"}
	add("autostart/process", children, func() error { _, err := process.New(*children); return err })

	down := &downscale.Config{}
	add(
		"downscale", down,
		func() error { _, err := downscale.New(f, &machinetest.Fake{}, *down); return err },
	)

	transport := &backhaul.Config{}
	add(
		"backhaul", transport,
		func() error { _, err := backhaul.NewTransport(backhaul.NoWait(b), *transport); return err },
	)
	add(
		"backhaul", &transport.MachineConfig,
		func() error { _, err := backhaul.NewTransport(backhaul.NoWait(b), *transport); return err },
	)
	handler := &backhaul.HandlerConfig{AnyNode: true}
	add(
		"backhaul", &handler.MachineConfig,
		func() error { _, err := backhaul.NewHandler(f, *handler); return err },
	)
	add("backhaul", handler, func() error { _, err := backhaul.NewHandler(f, *handler); return err })
	server := &backhaul.ServerConfig{}
	add(
		"backhaul", server,
		func() error { _, err := backhaul.NewServer(http.NotFoundHandler(), *server); return err },
	)
	front := &backhaul.FrontConfig{}
	add("backhaul", front,
		func() error { _, err := backhaul.NewFront(http.NotFoundHandler(), *front); return err })
	limit := &backhaul.LimitConfig{}
	add(
		"backhaul", limit,
		func() error { _, err := backhaul.LimitListener(unused{}, *limit); return err },
	)

	whole := &node.Config{}
	add("backhaul/node", whole, func() error { _, err := node.New(*whole); return err })
	served := &node.App{App: balance.App{ID: "web"}}
	add("backhaul/node", served, func() error {
		_, err := node.New(node.Config{Driver: &nobody{}, Apps: []node.App{*served}})
		return err
	})

	mesh := &rtt.Config{
		ID: "n", Key: []byte("0123456789abcdef"), Listen: "127.0.0.1:0",
	}
	add("rtt", mesh, func() error {
		m, err := rtt.New(*mesh)
		if err == nil {
			m.Close()
		}
		return err
	})
	return all
}

// newMemory returns the end of a node.
func newMemory() exchange.Exchange { return exchange.NewMemory(exchange.MemoryConfig{}).Connect("n") }

type unused struct{ net.Listener }

// nobody is a driver of nothing.
type nobody struct{ machinetest.Fake }

func (*nobody) Shutdown(context.Context) error { return nil }

// A number that makes no sense is refused with its field, its value and what to write instead,
// before anything comes of it: a negative one wherever the field's comment does not say what that
// means, and what is not a number in any case.
func TestEveryConfigNamesFieldValueAndRemedy(t *testing.T) {
	for _, c := range configs(t) {
		v := reflect.ValueOf(c.value).Elem()
		name := v.Type().Name()
		if err := c.make(); err != nil {
			t.Errorf("%s: %s: as it stands: %v", c.folder, name, err)
		}
		doc := fieldDocs(t, c.folder)
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			bad := map[string]func(reflect.Value){}
			switch v.Field(i).Kind() {
			case reflect.Int, reflect.Int64:
				bad["-7"] = func(f reflect.Value) { f.SetInt(-7) }
			case reflect.Float64:
				bad["-7"] = func(f reflect.Value) { f.SetFloat(-7) }
				bad["NaN"] = func(f reflect.Value) { f.SetFloat(math.NaN()) }
				bad["+Inf"] = func(f reflect.Value) { f.SetFloat(math.Inf(1)) }
				bad["-Inf"] = func(f reflect.Value) { f.SetFloat(math.Inf(-1)) }
			default:
				continue
			}
			for value, set := range bad {
				was := reflect.New(field.Type).Elem()
				was.Set(v.Field(i))
				set(v.Field(i))
				err := c.make()
				v.Field(i).Set(was)
				meant := value == "-7" && strings.Contains(strings.ToLower(doc(name, field.Name)), "negative")
				switch {
				case err == nil && meant:
				case err == nil:
					t.Errorf("%s: %s.%s: %s is taken without a word", c.folder, name, field.Name, value)
				case !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(field.Name)) || !strings.Contains(err.Error(), value) ||
					!strings.Contains(err.Error(), "want ") && !strings.Contains(err.Error(), "use "):
					t.Errorf(
						"%s: %s.%s: the error of %s does not name field, value and remedy: %v", c.folder, name,
						field.Name, value, err,
					)
				}
			}
		}
	}
}

// No configuration with numbers in it is left out above.
func TestEveryConfigWithNumbersIsTried(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range configs(t) {
		tried[c.folder+"."+reflect.TypeOf(c.value).Elem().Name()] = true
	}
	for _, folder := range []string{"balance", "autostart", "autostart/machine", "autostart/process", "downscale", "backhaul", "backhaul/node", "rtt"} {
		files, _ := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
		for _, path := range files {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok || !spec.Name.IsExported() || !strings.HasSuffix(spec.Name.Name, "Config") {
					return true
				}
				s, ok := spec.Type.(*ast.StructType)
				if !ok || tried[folder+"."+spec.Name.Name] {
					return true
				}
				for _, f := range s.Fields.List {
					switch types.ExprString(f.Type) {
					case "int", "int64", "float64", "time.Duration":
						t.Errorf("%s.%s has numbers and is not tried", folder, spec.Name.Name)
					}
				}
				return true
			})
		}
	}
}

// Values that nobody can have meant are taken or refused, as others are, and nothing comes of them
// before Run: no panic, and no memory by the number.
func TestAbsurdNumbersInAConfigCostNothing(t *testing.T) {
	for _, c := range configs(t) {
		v := reflect.ValueOf(c.value).Elem()
		for i := range v.NumField() {
			f := v.Field(i)
			if !v.Type().Field(i).IsExported() || f.Kind() != reflect.Int && f.Kind() != reflect.Int64 {
				continue
			}
			was := f.Int()
			for _, n := range []int64{math.MinInt64, math.MaxInt64, math.MaxInt64 / 2} {
				f.SetInt(n)
				func() {
					defer func() {
						if r := recover(); r != nil {
							t.Errorf("%s: %s.%s %d: %v", c.folder, v.Type().Name(), v.Type().Field(i).Name, n, r)
						}
					}()
					c.make() //nolint:errcheck // either will do
				}()
			}
			f.SetInt(was)
		}
	}
}

// fieldDocs returns what looks up the comments of a struct's fields in the source of a package.
func fieldDocs(t *testing.T, folder string) func(structure, field string) string {
	docs := map[string]string{}
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of %s: %v", folder, err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			shared := ""
			for _, f := range s.Fields.List {
				text := f.Doc.Text() + f.Comment.Text()
				if f.Doc == nil && f.Comment == nil {
					text = shared // one comment over several fields
				}
				shared = text
				for _, n := range f.Names {
					docs[fmt.Sprint(spec.Name.Name, ".", n.Name)] = text
				}
			}
			return true
		})
	}
	return func(structure, field string) string {
		text := docs[structure+"."+field]
		if strings.Contains(text, "as in [Config]") {
			text = docs["Config."+field]
		}
		return text
	}
}
