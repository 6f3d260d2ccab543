package backhaul

import "net/http"

// Failed is the default of [Config].Failed: status 500, 502, 503 without Retry-After and 504, and gRPC's status UNAVAILABLE
// (14) in the head or in the trailer. An answer 503 with Retry-After is a machine that is well and sheds load; other codes of
// gRPC tell of the request.
func Failed(status int, h http.Header) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	case http.StatusServiceUnavailable:
		return len(h["Retry-After"]) == 0
	}
	code := h["Grpc-Status"]
	return len(code) == 1 && code[0] == grpcUnavailable
}

const grpcUnavailable = "14"
