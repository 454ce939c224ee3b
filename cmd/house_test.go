// Package cmd_test holds the house rules: which package may import which.
package cmd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/sandgate-dev/sandgate/"

// floors in the order of a create request; a package imports its own floor and those after it.
var floors = []string{"cmd", "gateway", "warmpool", "injector", "csiagent"}

// rooms: a package below `from` must not import one below `to`.
var rooms = []struct{ from, to, why string }{
	{"gateway/e2b", "warmpool/local", "a dialect never imports a backend"},
	{"gateway/e2b", "warmpool/kube", "a dialect never imports a backend"},
	{"gateway", "k8s.io/client-go", "neither use cases nor dialects know a Kubernetes client"},
	{"warmpool/local", "warmpool/kube", "backends do not know each other"},
	{"warmpool/api", "warmpool/volume", "api <- volume <- kube <- controller"},
	{"warmpool/volume", "warmpool/local", "api <- volume <- backends"},
	{"injector", "k8s.io/client-go", "injection is pure"},
}

// exact: a package (not those below it) must not import anything below `to`.
var exact = []struct{ from, to, why string }{
	{"gateway", "github.com/labstack/echo", "the use cases know no HTTP framework"},
	{"warmpool", "k8s.io/", "no Kubernetes in the root package"},
	{"csiagent/mount", "google.golang.org/grpc", "nouns know no wire"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunDownTheHouse(t *testing.T) {
	require.Empty(t, violations(load(t)))
}

// One agent runs in every pod: what its program links is paid for as often.
func TestTheAgentLinksNeitherMetricsNorClients(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/csiagent")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	for _, heavy := range []string{"github.com/prometheus/", "go.opentelemetry.io/", "k8s.io/client-go", "k8s.io/api/", "sigs.k8s.io/controller-runtime"} {
		require.NotContains(t, string(out), heavy)
	}
	require.Contains(t, string(out), "google.golang.org/grpc", "the list is one")
}

// The checker itself must be able to fail.
func TestAnImportUpTheHouseIsFound(t *testing.T) {
	planted := []pkg{
		{module + "csiagent/node", []string{module + "warmpool"}},
		{module + "gateway/e2b", []string{module + "warmpool/local"}},
		{module + "csiagent/driver/oss", []string{module + "csiagent/node"}},
		{module + "gateway", []string{"github.com/labstack/echo/v4"}},
		{module + "warmpool/utils", nil},
	}
	for _, p := range planted {
		require.NotEmpty(t, violations([]pkg{p}), p.ImportPath)
	}
}

func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, p)
	}
	require.NotEmpty(t, all)
	return all
}

func violations(all []pkg) (out []string) {
	for _, p := range all {
		from := strings.TrimPrefix(p.ImportPath, module)
		if drawer(from) {
			out = append(out, from+": a package is one word that says what it provides")
		}
		for _, imp := range p.Imports {
			to := strings.TrimPrefix(imp, module)
			if strings.HasPrefix(imp, module) && slices.Index(floors, floor(from)) > slices.Index(floors, floor(to)) {
				out = append(out, from+" imports "+to+": imports run down only")
			}
			if below(from, "csiagent/driver") && strings.HasPrefix(imp, module) && !below(to, "csiagent/mount") && !below(to, "csiagent/driver") {
				out = append(out, from+" imports "+to+": drivers import mount only")
			}
			for _, r := range rooms {
				if below(from, r.from) && below(to, r.to) {
					out = append(out, from+" imports "+to+": "+r.why)
				}
			}
			for _, r := range exact {
				if from == r.from && strings.HasPrefix(to, r.to) {
					out = append(out, from+" imports "+to+": "+r.why)
				}
			}
		}
	}
	return out
}

func floor(path string) string { return strings.SplitN(path, "/", 2)[0] }

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func drawer(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "pkg", "base", "manager"}, part) {
			return true
		}
	}
	return false
}
