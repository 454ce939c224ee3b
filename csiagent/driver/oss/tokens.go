package oss

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tokens are the files that ossfs2 takes a token from, and looks at again when AccessKeyId has changed: a directory, swapped as a
// whole by its symbolic link.
type tokens struct{ room room }

// tokensName is the link in the room; tokensAt is where a client finds it.
const (
	tokensName = "sts"
	tokensAt   = roomAt + "/" + tokensName
)

const fileID, fileSecret, fileToken, fileExpires = "AccessKeyId", "AccessKeySecret", "SecurityToken", "Expiration"

func newTokens(r room, keys credentials) (*tokens, error) {
	t := &tokens{r}
	return t, t.replace(context.Background(), keys)
}

// resumeTokens takes over the files of an earlier process's client.
func resumeTokens(r room) (*tokens, error) {
	if _, err := os.Readlink(r.path(tokensName)); err != nil {
		return nil, errNoRoom
	}
	return &tokens{r}, nil
}

func (t *tokens) replace(_ context.Context, c credentials) error {
	if c.token == "" {
		return invalid("the volume's Secret must hold a SecurityToken, as it did when the volume was mounted; mount it again to use an access key")
	}
	had, _ := os.Readlink(t.room.path(tokensName)) // none yet
	if had != "" && t.has(c) {
		return nil
	}
	fresh := tokensName + "." + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := os.Mkdir(t.room.path(fresh), 0o700); err != nil {
		return errors.New("write credentials: " + plain(err))
	}
	for _, f := range c.files() { // the one whose change the clients look for is the last
		if err := t.room.write(filepath.Join(fresh, f.name), []byte(f.value)); err != nil {
			return err
		}
	}
	link := t.room.path(tokensName + ".new")
	_ = os.Remove(link) // of a swap that was cut short
	if err := os.Symlink(fresh, link); err != nil {
		return errors.New("write credentials: " + plain(err))
	}
	if err := os.Rename(link, t.room.path(tokensName)); err != nil {
		return errors.New("write credentials: " + plain(err))
	}
	if had == "" {
		return nil
	}
	return os.RemoveAll(t.room.path(had))
}

// has says whether c is what the files hold.
func (t *tokens) has(c credentials) bool {
	for _, f := range c.files() {
		b, err := os.ReadFile(t.room.path(filepath.Join(tokensName, f.name)))
		if err != nil || string(b) != f.value {
			return false
		}
	}
	return true
}

func (c credentials) files() []option {
	out := []option{{fileSecret, c.secret}, {fileToken, c.token}}
	if !c.expires.IsZero() {
		out = append(out, option{fileExpires, c.expires.UTC().Format(time.RFC3339)})
	}
	return append(out, option{fileID, c.id})
}

func (t *tokens) trouble() error { return nil }

func (t *tokens) close() { t.room.close() }
