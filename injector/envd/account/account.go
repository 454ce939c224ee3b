// Package account says as whom a request to the in-sandbox daemon acts: it finds users in the sandbox's own
// passwd and group files, resolves the paths that they name, and makes directories that belong to them. It knows
// neither HTTP nor processes.
//
// As upstream does, the daemon touches files with its own rights and gives them to the user afterwards: SDKs rely on
// writing to directories that only root can make, such as /code. The user of a request thus says who owns what it
// makes, and is no bound to what it reaches. Who holds the sandbox's token is root in it; a command that runs as a
// lesser user can have the daemon follow a link that it planted, if a request names it. The bound is the container.
package account

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// ErrUnknown is wrapped by every error that says "no such user, or not one that this daemon can act as".
var ErrUnknown = errors.New("unknown user")

// Account is a user of the sandbox, resolved to numbers.
type Account struct {
	Name   string
	UID    int
	GID    int
	Groups []int
	Home   string
}

// Directory finds accounts and resolves paths. Its functions are asked at each request, since /init may change
// the answers while the daemon runs.
type Directory struct {
	// Self is set in single-user mode: the daemon has no root, so every request acts as this account.
	Self *Account
	// DefaultUser names the user of a request that names none.
	DefaultUser func() string
	// DefaultDir is where a request works that names no path; empty is the user's home.
	DefaultDir func() string
}

// Lookup finds a user by name; the empty name is the default user. Images that were not made for E2B have no such user: there it is who
// the daemon, like the rest of the container, runs as.
func (d *Directory) Lookup(name string) (Account, error) {
	if d.Self != nil {
		return d.self(name)
	}
	byDefault := name == ""
	if byDefault {
		name = d.DefaultUser()
	}
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if byDefault && (errors.As(err, &unknown) || errors.Is(err, fs.ErrNotExist)) { // an image of one program has no /etc/passwd
		return Current(os.Getuid(), os.Getgid()), nil
	}
	if err != nil {
		return Account{}, fmt.Errorf("looking up user '%s': %w: %w", name, ErrUnknown, err)
	}
	return resolve(u)
}

// self answers for the only account there is. The default user is always that one; a name given on purpose must be it.
func (d *Directory) self(name string) (Account, error) {
	if name == "" || name == d.Self.Name {
		return *d.Self, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, fmt.Errorf("looking up user '%s': %w: %w", name, ErrUnknown, err)
	}
	if u.Uid != strconv.Itoa(d.Self.UID) {
		return Account{}, fmt.Errorf("looking up user '%s': %w: the daemon runs without root, only as '%s'", name, ErrUnknown, d.Self.Name)
	}
	return *d.Self, nil
}

// Current is the account of this very process, for single-user mode. An uid without a passwd line gets its number
// as name; a home that is not there is "/", since no other user could be asked for instead.
func Current(uid, gid int) Account {
	a := Account{Name: strconv.Itoa(uid), UID: uid, GID: gid, Groups: []int{gid}, Home: "/"}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if known, err := resolve(u); err == nil {
			a = known
		}
	}
	if info, err := os.Stat(a.Home); err != nil || !info.IsDir() {
		a.Home = "/"
	}
	return a
}

func resolve(u *user.User) (Account, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return Account{}, fmt.Errorf("uid of user '%s' is not a number: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return Account{}, fmt.Errorf("gid of user '%s' is not a number: %w", u.Username, err)
	}
	a := Account{Name: u.Username, UID: uid, GID: gid, Groups: []int{gid}, Home: u.HomeDir}
	// A sandbox may lack /etc/group; the user's own group is then all there is.
	extra, err := u.GroupIds()
	if err != nil {
		return a, nil //nolint:nilerr // see above
	}
	for _, g := range extra {
		if n, err := strconv.Atoi(g); err == nil && !slices.Contains(a.Groups, n) {
			a.Groups = append(a.Groups, n)
		}
	}
	return a, nil
}
