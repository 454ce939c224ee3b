package filesystem

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
	"github.com/sandgate-dev/sandgate/injector/envd/metadata"
)

// names remembers who owns what during one request: a listing asks for the same few names again and again.
type names struct{ users, groups map[uint32]string }

func newNames() names { return names{map[uint32]string{}, map[uint32]string{}} }

func (n names) user(id uint32) string {
	return remember(n.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (n names) group(id uint32) string {
	return remember(n.groups, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// remember looks an id up once; one without a name is its own name.
func remember(known map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	if name, ok := known[id]; ok {
		return name
	}
	number := strconv.FormatUint(uint64(id), 10)
	name, err := lookup(number)
	if err != nil {
		name = number
	}
	known[id] = name
	return name
}

// describe tells what lies at path. Type and mode of a symbolic link are those of what it leads to, if anything.
func (n names) describe(path string) (*filesystempb.EntryInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	e := &filesystempb.EntryInfo{
		Name:         info.Name(),
		Type:         kind(info.Mode()),
		Path:         path,
		Size:         info.Size(),
		Mode:         uint32(info.Mode().Perm()),
		Permissions:  info.Mode().String(),
		ModifiedTime: timestamppb.New(info.ModTime()),
		Metadata:     metadata.Read(path),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.Group = n.user(st.Uid), n.group(st.Gid)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		follow(path, e)
	}
	return e, nil
}

func follow(path string, e *filesystempb.EntryInfo) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		target = path // a link to nothing, or in a circle
	}
	e.SymlinkTarget, e.Type, e.Mode = &target, filesystempb.FileType_FILE_TYPE_UNSPECIFIED, 0
	if info, err := os.Stat(path); err == nil {
		e.Type, e.Mode = kind(info.Mode()), uint32(info.Mode().Perm())
	}
}

func kind(m fs.FileMode) filesystempb.FileType {
	switch {
	case m.IsRegular():
		return filesystempb.FileType_FILE_TYPE_FILE
	case m.IsDir():
		return filesystempb.FileType_FILE_TYPE_DIRECTORY
	case m&fs.ModeSymlink != 0:
		return filesystempb.FileType_FILE_TYPE_SYMLINK
	default:
		return filesystempb.FileType_FILE_TYPE_UNSPECIFIED
	}
}
