package oss

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// sayings are what clients write when they end, by the words in them, and what it means. An exit code means nothing: s3fs ends
// with 0 after it failed.
var sayings = []struct {
	words []string
	kind  error
	text  string
}{
	{[]string{"unknown option"}, mount.ErrInvalid, "the FUSE client of this machine does not know one of the options in otherOpts or mountOptions"},
	{[]string{"bucket or key not found", "bucket not found", "nosuchbucket", "mountpath", "remote path"}, mount.ErrNotFound, "there is no such bucket or path"},
	{
		[]string{"invalid credentials", "signaturedoesnotmatch", "invalidaccesskeyid", "accessdenied", "access denied", "forbidden"},
		mount.ErrDenied, "the object store refuses these credentials",
	},
	{
		[]string{"ssl", "certificate", "tls"}, // of ossfs2; the others leave it to the signer
		mount.ErrInvalid, "the object store's certificate is not trusted on this machine",
	},
	{
		[]string{"unable to connect", "could not resolve", "couldn't resolve", "timed out", "timeout", "service unavailable"},
		mount.ErrUnavailable, "the object store does not answer",
	},
}

// badRequest is looked for first: its line also names the host.
const badRequest = "bad request"

// errUnsaid is an end whose reason no saying tells.
var errUnsaid = errors.New("the FUSE client ended without saying why")

// classify says why a client ended, from what it wrote.
func classify(output string) error {
	said := strings.ToLower(lastWords(output))
	if strings.Contains(said, badRequest) {
		return fmt.Errorf("%w: the object store does not understand the request; look at bucket, region and sigVersion", mount.ErrInvalid)
	}
	for _, s := range sayings {
		for _, w := range s.words {
			if strings.Contains(said, w) {
				return fmt.Errorf("%w: %s", s.kind, s.text)
			}
		}
	}
	return errUnsaid
}

// lastWords are the lines of output that are not mere information: also not how ossfs would like to be started, two lines that come last.
func lastWords(output string) string {
	var out []string
	for line := range strings.Lines(output) {
		if text := strings.TrimSpace(line); text != "" && !strings.Contains(text, "[INF]") && !strings.HasPrefix(text, "[NOTICE]") && !strings.HasPrefix(text, "ossfs [oss-bucket]") {
			out = append(out, text)
		}
	}
	return strings.Join(out[max(0, len(out)-8):], "\n")
}
