package interop

import (
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// chatty is a service whose calls do not end by themselves.
type chatty struct {
	first
	left chan error
}

func (chatty) UnaryCall(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{}, nil
}

func (s chatty) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, out testgrpc.TestService_StreamingOutputCallServer) error {
	if err := out.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, 100<<10)}}); err != nil {
		return err
	}
	<-out.Context().Done()
	s.left <- out.Context().Err()
	return nil
}

// A gRPC server that is told to end a conversation ends it with a status of its own, and a call in which only the server
// speaks ends as UNAVAILABLE; what else is on the connection goes on.
func TestGRPCCallsAreToldToEnd(t *testing.T) {
	left := make(chan error, 1)
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, chatty{left: left})
	conns := &backhaul.Connections{StreamAge: time.Nanosecond}
	front := pathKnowing(t, listen(t, s.Serve, s.Stop), true, conns)
	cc, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := testgrpc.NewTestServiceClient(cc)
	m := balance.Machine{App: "web", ID: "m1"}
	unary := func() {
		t.Helper()
		if _, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{}); err != nil {
			t.Errorf("a request beside it: %v", err)
		}
	}

	talk, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := talk.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 70 << 10} {
		if err := talk.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
		if in, err := talk.Recv(); err != nil || len(in.Payload.GetBody()) != size {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	if n := conns.Long(m, balance.ClassStream); n != 1 {
		t.Errorf("%d streams", n)
	}
	unary()
	conns.Notify(m, balance.ClassStream, time.Hour)
	if _, err := talk.Recv(); status.Code(err) != codes.DataLoss || len(talk.Trailer()["bye"]) != 1 {
		t.Errorf("the server's status is %v, trailer %v", err, talk.Trailer())
	}
	unary()

	listen, err := client.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if in, err := listen.Recv(); err != nil || len(in.Payload.Body) != 100<<10 {
		t.Fatal(err)
	}
	conns.Notify(m, balance.ClassStream, 2*time.Second) // half of it for the case that the client's end is still on its way
	if _, err := listen.Recv(); err == io.EOF || status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	if err := <-left; err != context.Canceled {
		t.Errorf("the server sees %v", err)
	}
	unary()
	if n := conns.Long(m, balance.ClassAll); n != 0 {
		t.Errorf("%d long connections in the end", n)
	}
}
