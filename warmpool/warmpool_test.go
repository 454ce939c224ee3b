package warmpool_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestAnIDIsAHostNameAndDrawnFromAllCharacters(t *testing.T) {
	seen := map[warmpool.ID]bool{}
	letters := map[rune]bool{}
	for range 500 {
		id := warmpool.NewID()
		parsed, ok := warmpool.ParseID(string(id))
		require.True(t, ok, id)
		require.Equal(t, id, parsed)
		require.False(t, seen[id])
		seen[id] = true
		for _, c := range id[1:] {
			letters[c] = true
		}
	}
	require.Len(t, letters, 36)
}

func TestWhatIsNoID(t *testing.T) {
	good := "i0123456789abcdefghi"
	_, ok := warmpool.ParseID(good)
	require.True(t, ok)
	for _, s := range []string{"", "i", "x" + good[1:], good + "j", good[:19], "I" + good[1:], good[:19] + "-", good[:19] + "\n", " " + good, good[:18] + "é"} {
		_, ok := warmpool.ParseID(s)
		require.False(t, ok, "%q", s)
	}
}

func TestATokenDoesNotPrintItself(t *testing.T) {
	sb := warmpool.Sandbox{Token: "canary"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U"} {
		require.NotContains(t, fmt.Sprintf(verb, sb.Token), "canary", verb)
		require.NotContains(t, fmt.Sprintf(verb, sb), "canary", verb)
		require.NotContains(t, fmt.Sprintf(verb, sb.Token), "63616e617279", verb)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", sb.Token, "sandbox", sb)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", sb.Token, "sandbox", sb)
	raw, err := json.Marshal(sb)
	require.NoError(t, err)
	require.NotContains(t, log.String()+string(raw), "canary")
	require.Equal(t, "canary", sb.Token.Reveal())
}

func TestAnErrorKeepsItsCodeAndItsCauseApart(t *testing.T) {
	err := fmt.Errorf("claim: %w", warmpool.Errorf(warmpool.NotFound, "no template %q: %w", "x", fs.ErrNotExist))
	require.Equal(t, warmpool.NotFound, warmpool.CodeOf(err))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, warmpool.Internal, warmpool.CodeOf(errors.New("a foreign error")))
	require.Equal(t, warmpool.Internal, warmpool.CodeOf(nil))
	e := &warmpool.Error{Code: warmpool.Denied, Message: "no", Err: fs.ErrPermission}
	require.Equal(t, "no: permission denied", e.Error())
	require.Equal(t, "no", (&warmpool.Error{Message: "no"}).Error())
}
