package backhaul

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// echoOrders answers each line of an order as it comes, with who asks.
func echoOrders(from balance.NodeID, w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	c.EnableFullDuplex() //nolint:errcheck // over HTTP/2 it is so
	fmt.Fprintf(w, "%s %s\n", from, r.URL.RequestURI())
	c.Flush()
	for in := bufio.NewScanner(r.Body); in.Scan(); c.Flush() {
		fmt.Fprintf(w, "%s\n", in.Text())
	}
}

// converse sends an order, and each further line when the one before has been answered.
func converse(t *testing.T, tr *Transport, node balance.NodeID, as string) error {
	t.Helper()
	said, say := io.Pipe()
	defer say.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "/say?x=1", said)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.Order(node, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, resp.Header.Get("Ebb-Fault"))
	}
	in := bufio.NewReader(resp.Body)
	for _, want := range []string{as + " /say?x=1", "one", "two"} {
		if line, err := in.ReadString('\n'); line != want+"\n" || err != nil {
			return fmt.Errorf("%q (%v), want %q", line, err, want)
		}
		if want != "two" {
			next := map[bool]string{true: "one", false: "two"}[want != "one"]
			go io.WriteString(say, next+"\n")
		}
	}
	return nil
}

// An order is a conversation with the node itself, over a connection that is authenticated like
// those of requests; requests for machines go on beside it.
func TestOrdersAreConversationsOfNodes(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, handler: HandlerConfig{Orders: echoOrders}})
	r.serve("m1", says("hello"))
	if err := converse(t, r.transport, "a node's name, of any kind", "edge"); err != nil {
		t.Error(err)
	}
	resp, err := r.front.Client().Get(r.front.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// Who has another key gets no answer, and nobody hears of the order. Nodes that take none say so.
func TestOrdersOfStrangersAreRefused(t *testing.T) {
	heard := func(balance.NodeID, http.ResponseWriter, *http.Request) {
		t.Error("an order of a stranger is served")
	}
	r := newRig(
		t,
		rigConfig{config: Config{Keys: []string{"another-key"}}, handler: HandlerConfig{Orders: heard}},
	)
	if err := converse(t, r.transport, "worker", "edge"); err == nil ||
		!strings.Contains(err.Error(), "do not accept each other") {
		t.Errorf("%v", err)
	}
	r = newRig(t, rigConfig{})
	if err := converse(t, r.transport, "worker", "edge"); err == nil ||
		!strings.Contains(err.Error(), "400") {
		t.Errorf("%v", err)
	}
	alone, err := NewTransport(NoWait(r.b), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := converse(t, alone, "worker", "edge"); err == nil ||
		!strings.Contains(err.Error(), "Config.Dial is nil: set it") {
		t.Errorf("%v", err)
	}
}

// A client cannot give orders: what names a machine goes there, whatever else it says.
func TestClientsGiveNoOrders(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, handler: HandlerConfig{Orders: func(balance.NodeID, http.ResponseWriter, *http.Request) {
		t.Error("a client's order is served")
	}}})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["Ebb-Order"]) }))
	req, err := http.NewRequest("POST", r.front.URL+"/start", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Ebb-Order", "edge")
	resp, err := r.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "[]" {
		t.Errorf("the machine sees %q", body)
	}
}

// Where nodes show certificates, an order is of the node that the certificate names, whatever that
// calls itself.
func TestAnOrderIsOfWhomItsCertificateNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t, "ca")
		c := clusterConfig{handler: HandlerConfig{Orders: echoOrders}}
		k := newCluster(t, withIdentities(t, c,
			loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "edge-7", time.Hour), ca)),
			loadIdentity(t, files(t, t.TempDir(), ca.issue(t, "worker", time.Hour), ca))))
		if err := converse(t, k.edge, "worker", "edge-7"); err != nil {
			t.Error(err)
		}
		k.edge.Close()
	})
}
