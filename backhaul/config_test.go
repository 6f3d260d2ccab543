package backhaul

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestConfigErrorsNameFieldAndRemedy(t *testing.T) {
	p := NoWait(nil)
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "r"})
	if err != nil {
		t.Fatal(err)
	}
	edge := func(c Config) error { _, err := NewTransport(p, c); return err }
	owner := func(c HandlerConfig) error { _, err := NewHandler(fleet, c); return err }
	_, noPicker := NewTransport(nil, Config{})
	_, noFleet := NewHandler(nil, HandlerConfig{})
	for want, err := range map[string]error{
		"Picker":                       noPicker,
		"fleet":                        noFleet,
		"Config.Bounces -1":            edge(Config{Bounces: -1}),
		"Config.Rounds -1":             edge(Config{Rounds: -1}),
		"Config.HeaderTimeout -1s":     edge(Config{HeaderTimeout: -time.Second}),
		"Config.MaxHeader -1":          edge(Config{MaxHeader: -1}),
		"Config.Key: want":             edge(Config{Key: "two words"}),
		"HandlerConfig.Key is empty":   owner(HandlerConfig{}),
		"HandlerConfig.NextKey":        owner(HandlerConfig{AnyNode: true, NextKey: "x"}),
		"HandlerConfig.Key: want":      owner(HandlerConfig{Key: "a\nb"}),
		"HandlerConfig.HeaderTimeout ": owner(HandlerConfig{Key: "k", HeaderTimeout: -1}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "two words") {
			t.Errorf("a key in an error: %v", err)
		}
	}
	if err := errors.Join(edge(Config{}), owner(HandlerConfig{AnyNode: true}), edge(Config{ReplayLimit: -1, Failures: -1, DialTimeout: -1, MaxIdle: -1, IdleTimeout: -1})); err != nil {
		t.Error(err)
	}
}
