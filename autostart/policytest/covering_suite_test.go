package policytest_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
)

// coveringEnv makes this binary run the suite on covering.
const coveringEnv = "AUTOSTART_COVERING"

func TestCovering(t *testing.T) {
	if os.Getenv(coveringEnv) == "" {
		t.Skip("run by TestAShortPolicyKeepsAllButWhatPoliciesDecide")
	}
	policytest.TestPolicy(t, func() policy.Policy { return newCovering("web") })
}

// A policy that knows no bounds passes the suite, except the clauses that only a policy can keep
// and this one does not.
func TestAShortPolicyKeepsAllButWhatPoliciesDecide(t *testing.T) {
	if testing.Short() {
		t.Skip("executes itself")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCovering$")
	cmd.Env = append(os.Environ(), coveringEnv+"=1")
	out, _ := cmd.CombinedOutput()
	var failed []string
	for _, m := range regexp.MustCompile(`--- FAIL: TestCovering/(\S+/\S+)`).FindAllStringSubmatch(string(out), -1) {
		failed = append(failed, m[1])
	}
	want := []string{
		"Demand/failing",  // it does not look at Input.Unserved
		"Bounds/minimum",  // nor at MinPerRegion
		"Regions/starves", // it counts what runs in any region
		"Nodes/silent",    // it does not tell owners apart
		"Faults/bound",    // nor what it has asked for and does not see yet
		"Faults/progress", //
	}
	slices.Sort(failed)
	slices.Sort(want)
	if !slices.Equal(failed, want) {
		t.Errorf("it fails %q, want %q:\n%s", failed, want, out)
	}
}
