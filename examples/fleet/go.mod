module github.com/ebbkit/ebb/examples/fleet

go 1.26.0

require (
	github.com/ebbkit/ebb v0.1.0
	github.com/ebbkit/ebb/balance/exchange/nats v0.1.0
	go.yaml.in/yaml/v3 v3.0.5
	golang.org/x/sync v0.24.0
)
