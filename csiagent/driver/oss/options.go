package oss

import (
	"regexp"
	"slices"
	"strings"
)

// option is one -o argument of a client.
type option struct{ name, value string }

func (o option) String() string {
	if o.value == "" {
		return o.name
	}
	return o.name + "=" + o.value
}

var (
	octal   = regexp.MustCompile(`^0?[0-7]{3}$`)
	decimal = regexp.MustCompile(`^-?[0-9]{1,9}$`)
	word    = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	level   = regexp.MustCompile(`^(crit|critical|err|error|warn|warning)$`)
	flag    = regexp.MustCompile(`^$`)
)

const maxValue = 64

// allowed are the options that a volume may give its client, and the form of their values. What is not here could widen the
// mount, read files of this machine, change the credentials or fill the log with them.
var allowed = map[string]*regexp.Regexp{
	// of the mount
	"allow_other": flag, "ro": flag, "rw": flag, "nosuid": flag, "nodev": flag, "noexec": flag, "noatime": flag, "relatime": flag,
	"sync": flag, "dirsync": flag, "_netdev": flag, "nofail": flag,
	"uid": decimal, "gid": decimal, "umask": octal, "mp_umask": octal,
	"big_writes": flag, "kernel_cache": flag, "auto_cache": flag, "max_write": decimal, "max_readahead": decimal,
	"attr_timeout": decimal, "entry_timeout": decimal, "negative_timeout": decimal,
	// of the storage
	"use_path_request_style": flag, "sigv2": flag, "sigv4": flag, "region": word, "endpoint": word, "listobjectsv2": flag,
	"default_acl": word, "storage_class": word,
	// of the client
	"connect_timeout": decimal, "readwrite_timeout": decimal, "retries": decimal, "dbglevel": level,
	"max_stat_cache_size": decimal, "stat_cache_expire": decimal, "enable_noobj_cache": flag, "notsup_compat_dir": flag,
	"list_object_max_keys": decimal, "multireq_max": decimal, "parallel_count": decimal, "multipart_size": decimal,
	"nomultipart": flag, "nocopyapi": flag, "norenameapi": flag, "complement_stat": flag,
	"enable_content_md5": flag, "ensure_diskfree": decimal, "max_dirty_data": decimal, "nodnscache": flag, "nosscache": flag,
}

// ours are options that are always as we set them: a volume may say them, and changes nothing.
var ours = []string{"allow_other", "rw", "nosuid", "nodev", "relatime", "_netdev", "nofail"}

// foreign are options of s3fs that ossfs does not know: it signs with version 1 unless told otherwise, and remembers what is missing unless
// told otherwise.
var foreign = map[string]bool{"sigv2": true, "enable_noobj_cache": true}

// knownTo refuses options that would end the client.
func (v *volume) knownTo(client string) error {
	for _, o := range v.options {
		if client == "ossfs" && foreign[o.name] {
			return invalid("the option %q is not one of fuseType ossfs", o.name)
		}
	}
	return nil
}

// of is the option as the client calls it: what is a region to ossfs, and to later ones of its kind, is an endpoint to s3fs 1.90.
func (o option) of(client string) option {
	if client == "s3fs" && o.name == "region" {
		o.name = "endpoint"
	}
	return o
}

// otherOpts reads `-o a,b=c -od`, the whole grammar there is: no quotes, no other flags.
func otherOpts(text string) ([]option, error) {
	var out []option
	fields := strings.Fields(text)
	for i := 0; i < len(fields); i++ {
		list, ok := strings.CutPrefix(fields[i], "-o")
		if !ok {
			return nil, invalid("the attribute otherOpts must be groups of -o name=value,name; %q is none", fields[i])
		}
		if list == "" {
			if i++; i == len(fields) {
				return nil, invalid("the attribute otherOpts ends with an -o that has no options")
			}
			list = fields[i]
		}
		for _, item := range strings.Split(list, ",") {
			o, err := oneOption(item)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	return out, nil
}

func oneOption(item string) (option, error) {
	name, value, valued := strings.Cut(item, "=")
	form, ok := allowed[name]
	switch {
	case !ok:
		return option{}, invalid("the option %q is not among those that a volume may set", name)
	case form == flag && valued:
		return option{}, invalid("the option %q takes no value", name)
	case form != flag && (len(value) > maxValue || !form.MatchString(value)):
		return option{}, invalid("the option %q has a value of the wrong form", name)
	}
	return option{name, value}, nil
}

// allOptions gathers the volume's options from its attribute and from the PersistentVolume's mountOptions.
func (v *volume) allOptions(other string, mountOptions []string) error {
	list, err := otherOpts(other)
	if err != nil {
		return err
	}
	for _, item := range mountOptions {
		o, err := oneOption(item)
		if err != nil {
			return err
		}
		list = append(list, o)
	}
	for _, o := range list {
		switch {
		case o.name == "ro":
			v.readOnly = true
		case !slices.Contains(ours, o.name):
			v.options = append(v.options, o)
		}
	}
	return nil
}

// sets says whether the volume sets an option itself.
func (v *volume) sets(name string) bool {
	return slices.ContainsFunc(v.options, func(o option) bool { return o.name == name })
}
