package main

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func made(id string) answer { return answer{Status: http.StatusCreated, ID: id, Took: time.Second} }

func TestAHerdWithoutFaultsHasNone(t *testing.T) {
	answers := []answer{made("i1"), made("i2"), {Status: 429, RetryAfter: "2"}, {Status: 503, RetryAfter: "1"}}
	ids := held(answers)
	require.Equal(t, []string{"i1", "i2"}, ids)
	require.Empty(t, improper(answers, time.Minute))
	require.Empty(t, doubles(ids))
	require.Empty(t, lost(ids, map[string]int{"i1": 200, "i2": 200}, ids))
	require.Empty(t, nobodys(ids, ids))
	require.Empty(t, left(map[string][]string{"replica 1": nil}, nil))
}

func TestASandboxThatTwoWereGivenIsToldOnce(t *testing.T) {
	require.Equal(t, []string{"sandbox i1 was handed out twice"}, doubles(held([]answer{made("i1"), made("i2"), made("i1"), made("i1")})))
}

func TestASandboxThatIsLostIsTold(t *testing.T) {
	ids := []string{"i1", "i2"}
	require.Len(t, lost(ids, map[string]int{"i1": 404, "i2": 200}, ids), 1, "another replica does not know it")
	require.Len(t, lost(ids, map[string]int{"i1": 200}, ids), 1, "nobody could ask for it")
	require.Len(t, lost(ids, map[string]int{"i1": 200, "i2": 200}, []string{"i2"}), 1, "the store does not know it")
	require.Len(t, nobodys([]string{"i1"}, ids), 1, "a claim for nobody")
}

func TestAnAnswerThatHelpsNobodyIsTold(t *testing.T) {
	for name, a := range map[string]answer{
		"none":                           {Err: errors.New("connection reset")},
		"an internal error":              {Status: 500, RetryAfter: "1"},
		"a conflict":                     {Status: 409},
		"a refusal that names no time":   {Status: 503},
		"a refusal with a time of zero":  {Status: 429, RetryAfter: "0"},
		"a refusal with a time in words": {Status: 429, RetryAfter: "soon"},
		"one without an ID":              {Status: 201},
		"one that came late":             {Status: 201, ID: "i1", Took: time.Hour},
	} {
		require.Len(t, improper([]answer{a, made("i2")}, time.Minute), 1, name)
	}
}

func TestWhatOutlivesItsEndIsTold(t *testing.T) {
	require.Equal(t, []string{"sandbox i1 was killed, and its object is still there", "sandbox i2 was killed, and replica 3 lists it"},
		left(map[string][]string{"replica 1": {}, "replica 3": {"i2"}}, []string{"i1"}))
}

func TestWritesAreCountedByWhatTheyWrite(t *testing.T) {
	text := `# HELP apiserver_request_total x
apiserver_request_total{code="200",component="apiserver",dry_run="",group="agents.kruise.io",resource="sandboxes",scope="resource",subresource="",verb="PATCH",version="v1alpha1"} 5
apiserver_request_total{code="409",component="apiserver",dry_run="",group="agents.kruise.io",resource="sandboxes",scope="resource",subresource="",verb="PATCH",version="v1alpha1"} 2
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="binding",verb="POST",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 9
`
	require.Equal(t, map[string]float64{"PATCH sandboxes": 7, "POST pods/binding": 3}, writes(text))
	require.Equal(t, 7.0, sum(text, "apiserver_request_total", `verb="PATCH"`))
}
