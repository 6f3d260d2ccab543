// Package config is the configuration of a node of the fleet: a YAML file that is parsed strictly
// and may change while the node runs.
//
//	node: nrt-1
//	region: nrt
//	regions: {nrt: 1ms, hkg: 48ms}
//	keys: [what openssl rand -base64 32 prints]
//	listen: 127.0.0.1:8080
//	status: 127.0.0.1:8081
//	engine: {url: nats://127.0.0.1:4222}
//	drivers:
//	  files: {command: python3 -m http.server $PORT --bind 127.0.0.1}
//	apps:
//	  web: {driver: files, machines: 2, soft: 8, hard: 16, keep_alive: 30s}
//	hosts: {www.example.org: web}
//
// An unknown key, a duplicate key, and a name that is not defined elsewhere are errors: each says
// the line, the field, the value and the remedy.
package config

import "time"

// File is the content of a configuration.
type File struct {
	// Cluster separates fleets that share an engine; empty means "ebb".
	Cluster string `yaml:"cluster"`
	// Node is this node's name. No two nodes have the same.
	Node string `yaml:"node"`
	// Region is where the node is, one of Regions.
	Region string `yaml:"region"`
	// Regions are all regions, with the round trip to each from here; 0 means unknown. If Probe is
	// set, round trips are measured instead.
	Regions map[string]time.Duration `yaml:"regions"`
	// Keys are secrets by which the nodes authenticate each other: one, or two during a change.
	Keys []string `yaml:"keys"`

	Listen string `yaml:"listen"` // where an edge accepts clients
	Status string `yaml:"status"` // where the node's status page is; keep it private
	Hop    string `yaml:"hop"`    // where a worker accepts other nodes
	Probe  string `yaml:"probe"`  // where probes are answered, by UDP; empty: nothing is measured

	Engine Engine `yaml:"engine"`
	// Relay is a relay through which other nodes are reached; see package relay. It is for emulated
	// networks; empty: they are reached directly.
	Relay string `yaml:"relay"`
	// Grace bounds how long requests may take to end when the node shuts down; 0 means 20s.
	Grace time.Duration `yaml:"grace"`
	// Expire is how long a node may be silent before it counts as gone; 0 means 5s.
	Expire time.Duration `yaml:"expire"`

	Drivers map[string]Driver `yaml:"drivers"`
	Apps    map[string]App    `yaml:"apps"`
	// Hosts are the host names by which clients ask for apps; "*" stands for all others. An app's
	// name is always one more.
	Hosts map[string]string `yaml:"hosts"`
}

// Engine says what carries messages between the nodes: a NATS server, elsewhere or in this process.
type Engine struct {
	// URL is the server's URL. Several, separated by commas, are one cluster.
	URL string `yaml:"url"`
	// Credentials is a file with the node's JWT and seed, NKey a file with the seed of a key, and
	// CA a file with the authority that signed the server's certificate.
	Credentials string `yaml:"credentials"`
	NKey        string `yaml:"nkey"`
	CA          string `yaml:"ca"`
	// Dir is the folder of a server in this process, used instead of URL; Listen is where other
	// nodes reach it. One node of the fleet has it.
	Dir    string `yaml:"dir"`
	Listen string `yaml:"listen"`
}

// Driver says what a machine is: a process.
type Driver struct {
	// Command is a program and its arguments in one string, Argv the same as a list. Set one of
	// them. $PORT is the port on which the program has to listen.
	Command string   `yaml:"command"`
	Argv    []string `yaml:"argv"`
	Env     []string `yaml:"env"` // KEY=value
	Dir     string   `yaml:"dir"`
	// StopTimeout is how long a machine may take to end before it is killed; 0 means 5s.
	StopTimeout time.Duration `yaml:"stop_timeout"`
	Print       bool          `yaml:"print"` // shows what machines print
}

// App is an app.
type App struct {
	Driver   string `yaml:"driver"`   // one of Drivers
	Machines int    `yaml:"machines"` // that this node hosts
	// Soft and Hard are a machine's limits, in requests; 0 means none.
	Soft int `yaml:"soft"`
	Hard int `yaml:"hard"`
	// Min machines are kept running over all regions, and at most Max run; Max 0 means all.
	Min     int      `yaml:"min"`
	Max     int      `yaml:"max"`
	Regions []string `yaml:"regions"` // the app's home regions; none: wherever its clients are
	// Autostop says what happens to idle machines: "stop", "suspend" or "off"; empty means "stop".
	Autostop  string        `yaml:"autostop"`
	KeepAlive time.Duration `yaml:"keep_alive"` // how long an idle app keeps its machines; 0 means 5m
	Boot      time.Duration `yaml:"boot"`       // expected length of a start; 0 means unknown
	Check     string        `yaml:"check"`      // path to answer 2xx or 3xx; empty: listening suffices
	// Finish has machines finish requests whose clients have left. A hard limit then holds for what
	// the app executes, whatever its clients do.
	Finish bool `yaml:"finish"`
}
