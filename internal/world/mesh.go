package world

import (
	"context"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/rtt"
)

// newMesh makes the node's prober and responder. Its peers are set once all nodes exist, see
// connect.
func (w *World) newMesh(id balance.NodeID, region string) (*rtt.Mesh, *peers, error) {
	p := &peers{}
	c := rtt.Config{
		ID: string(id), Region: region, Key: []byte(w.key), Peers: p.Peers,
		Conn: w.config.net.packets(region),
	}
	if c.Conn == nil {
		c.Listen = "127.0.0.1:0"
	}
	m, err := rtt.New(c)
	return m, p, err
}

// peers is the list that a mesh probes: empty until the world is connected.
type peers struct{ list []rtt.Node }

func (p *peers) Peers() []rtt.Node { return p.list }

type meshed struct {
	*node
	mesh  *rtt.Mesh
	peers *peers
}

func (w *World) meshes() []meshed {
	var ms []meshed
	for _, e := range w.edges {
		ms = append(ms, meshed{&e.node, e.mesh, e.peers})
	}
	for _, k := range w.workers {
		ms = append(ms, meshed{&k.node, k.mesh, k.peers})
	}
	return ms
}

// connect tells every node the addresses of the others: behind a relay with the delay of the link.
func (w *World) connect(ctx context.Context) error {
	all := w.meshes()
	for _, from := range all {
		for _, to := range all {
			if from.node == to.node {
				continue
			}
			addr, err := w.config.net.relay(ctx, w.links, from.region, to.region, to.mesh.Addr())
			if err != nil {
				return err
			}
			from.peers.list = append(from.peers.list, rtt.Node{ID: string(to.id), Region: to.region, Addr: addr})
		}
	}
	return nil
}
