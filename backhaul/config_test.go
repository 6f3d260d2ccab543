package backhaul

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestConfigErrorsNameFieldAndRemedy(t *testing.T) {
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "r"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := balance.New(fleet, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p := NoWait(b)
	edge := func(c Config) error { _, err := NewTransport(p, c); return err }
	owner := func(c HandlerConfig) error { _, err := NewHandler(fleet, c); return err }
	_, noPicker := NewTransport(nil, Config{})
	_, noFleet := NewHandler(nil, HandlerConfig{})
	for want, err := range map[string]error{
		"Picker":                       noPicker,
		"fleet":                        noFleet,
		"Config.HeaderTimeout -1s":     edge(Config{MachineConfig: MachineConfig{HeaderTimeout: -time.Second}}),
		"Config.Keys[0]: want":         edge(Config{Keys: []string{"two words"}}),
		"HandlerConfig.Keys is empty":  owner(HandlerConfig{}),
		"HandlerConfig.Keys[1]":        owner(HandlerConfig{AnyNode: true, Keys: []string{"x", ""}}),
		"HandlerConfig.Keys[0]: want":  owner(HandlerConfig{Keys: []string{"a\nb"}}),
		"HandlerConfig.HeaderTimeout ": owner(HandlerConfig{MachineConfig: MachineConfig{HeaderTimeout: -1}, Keys: []string{"k"}}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "two words") {
			t.Errorf("a key in an error: %v", err)
		}
	}
	if err := errors.Join(edge(Config{}), owner(HandlerConfig{AnyNode: true}), edge(Config{MachineConfig: MachineConfig{dialTimeout: -1}, tuning: tuning{failures: -1, maxIdle: -1}, ReplayLimit: -1})); err != nil {
		t.Error(err)
	}
}
