package main

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// Nested modules that users import are released with the root, those that only serve this
// repository are not.
func TestPublishedModules(t *testing.T) {
	file := &fstest.MapFile{}
	got, err := published(fstest.MapFS{
		"go.mod": file, "b/nats/go.mod": file, "a/metrics/go.mod": file,
		"internal/tools/go.mod": file, "backhaul/interop/go.mod": file, "x/testdata/go.mod": file, ".ci/go.mod": file,
	})
	if err != nil || !slices.Equal(got, []string{"a/metrics", "b/nats"}) {
		t.Errorf("published: %v, %v", got, err)
	}
}

func TestTags(t *testing.T) {
	got, err := tags("v0.2.0", []string{"a/metrics"})
	want := []string{
		"git commit -am 'release v0.2.0'", "git tag v0.2.0", "git tag a/metrics/v0.2.0",
		"git push origin HEAD --tags",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("tags: %q, %v", got, err)
	}
	for version, remedy := range map[string]string{"0.2.0": "want one such as", "v1": "want one such as", "v01.0.0": "want one such as", "v2.0.0": "/v2"} {
		if _, err := tags(version, nil); err == nil || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%s: %v", version, err)
		}
	}
}
