package interop

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The cases of the gRPC interoperability suite that need neither TLS nor accounts. A case that fails ends the process, as
// that suite has it.
func TestGRPC(t *testing.T) {
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	front := path(t, listen(t, s.Serve, s.Stop), true)
	cc, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	tc := testgrpc.NewTestServiceClient(cc)
	for _, c := range []struct {
		name string
		do   func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
	}{
		{"empty_unary", interop.DoEmptyUnaryCall},
		{"large_unary", interop.DoLargeUnaryCall},
		{"client_streaming", interop.DoClientStreaming},
		{"server_streaming", interop.DoServerStreaming},
		{"ping_pong", interop.DoPingPong},
		{"empty_stream", interop.DoEmptyStream},
		{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
		{"cancel_after_begin", interop.DoCancelAfterBegin},
		{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
		{"status_code_and_message", interop.DoStatusCodeAndMessage},
		{"special_status_message", interop.DoSpecialStatusMessage},
		{"custom_metadata", interop.DoCustomMetadata},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.do(ctx, tc)
		})
	}
	t.Run("unimplemented_method", func(t *testing.T) { interop.DoUnimplementedMethod(t.Context(), cc) })
	t.Run("unimplemented_service", func(t *testing.T) {
		interop.DoUnimplementedService(t.Context(), testgrpc.NewUnimplementedServiceClient(cc))
	})
}

// first is a service whose server speaks first and whose stream stays open.
type first struct {
	testgrpc.UnimplementedTestServiceServer
}

func (first) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	if err := s.SendHeader(metadata.Pairs("greeting", "hello")); err != nil {
		return err
	}
	if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: []byte("first")}}); err != nil {
		return err
	}
	for {
		in, err := s.Recv()
		if err == io.EOF {
			s.SetTrailer(metadata.Pairs("bye", "now"))
			return status.Error(codes.DataLoss, "said all")
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

// The server may speak before the client has sent a message, deadlines and cancelling reach it, and trailers come back.
func TestGRPCServerSpeaksFirst(t *testing.T) {
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, first{})
	front := path(t, listen(t, s.Serve, s.Stop), true)
	cc, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := testgrpc.NewTestServiceClient(cc).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := stream.Header(); err != nil || len(h["greeting"]) != 1 {
		t.Fatalf("header %v, %v", h, err)
	}
	if m, err := stream.Recv(); err != nil || string(m.Payload.Body) != "first" {
		t.Fatalf("got %v, %v", m, err)
	}
	for _, size := range []int{1, 100, 300 << 10, 2 << 20} {
		if err := stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || len(m.Payload.Body) != size {
			t.Fatalf("%d bytes: got %d, %v", size, len(m.GetPayload().GetBody()), err)
		}
	}
	stream.CloseSend()
	if _, err := stream.Recv(); status.Code(err) != codes.DataLoss || len(stream.Trailer()["bye"]) != 1 {
		t.Errorf("got %v, trailer %v", err, stream.Trailer())
	}
}

// A server that is not there is UNAVAILABLE to a client, which then may retry.
func TestGRPCWithoutAMachine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cc, err := grpc.NewClient(path(t, addr, true), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = testgrpc.NewTestServiceClient(cc).EmptyCall(ctx, &testgrpc.Empty{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
