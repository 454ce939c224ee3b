package e2b

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// object is a JSON object read strictly: exact names, each once, of the right type. What is wrong goes to faults with its
// place. encoding/json would match names in any case, keep the last of duplicates and stop at the first fault.
type object struct {
	place  string
	fields map[string]gjson.Result
	faults *faults
}

// parseJSON returns the one JSON value that raw is, or why it is none.
func parseJSON(raw []byte) (gjson.Result, string) {
	if !utf8.Valid(raw) {
		return gjson.Result{}, "is not UTF-8"
	}
	// gjson takes anything for JSON; this one also bounds the nesting.
	var checked json.RawMessage
	if err := json.Unmarshal(raw, &checked); err != nil {
		return gjson.Result{}, "is not valid JSON: " + err.Error()
	}
	return gjson.ParseBytes(raw), ""
}

// readObject takes v for an object at place. A null field is an absent one.
func readObject(place string, v gjson.Result, fs *faults) (object, bool) {
	o := object{place: place, fields: map[string]gjson.Result{}, faults: fs}
	if !v.IsObject() {
		fs.add(place, "must be a JSON object")
		return o, false
	}
	seen := map[string]bool{}
	v.ForEach(func(key, value gjson.Result) bool {
		name := key.String()
		if seen[name] {
			fs.add(o.at(name), "is given twice")
		}
		seen[name] = true
		if value.Type != gjson.Null {
			o.fields[name] = value
		}
		return true
	})
	return o, true
}

// at is the place of a field.
func (o object) at(name string) string {
	switch {
	case !plain(name):
		return o.place + "[" + strconv.Quote(short(name)) + "]"
	case o.place == "":
		return name
	}
	return o.place + "." + name
}

// plain says whether a name can be shown as it is.
func plain(name string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-' {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

func short(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:64] + "…"
}

// only makes a fault of every field that is not known. Where lenient, one that says nothing (false, "", [], {}) may stay:
// newer SDKs spell out defaults of features that are not here.
func (o object) only(lenient bool, known ...string) {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		if !slices.Contains(known, name) && (!lenient || !empty(o.fields[name])) {
			o.faults.add(o.at(name), "is not a field that this gateway knows; leave it out")
		}
	}
}

// empty says whether a value asks for nothing.
func empty(v gjson.Result) bool { return emptyWithin(v, 4) }

// emptyWithin looks a few levels deep only: each level reads all of the text below it once more.
func emptyWithin(v gjson.Result, levels int) bool {
	switch {
	case levels == 0:
		return false
	case v.IsArray():
		return len(v.Array()) == 0
	case v.IsObject():
		all := true
		v.ForEach(func(_, inner gjson.Result) bool {
			all = emptyWithin(inner, levels-1)
			return all
		})
		return all
	}
	return v.Type == gjson.Null || v.Type == gjson.False || v.Type == gjson.String && v.Str == ""
}

// text reads a string field; the second result is false where it is absent or faulty.
func (o object) text(name string) (string, bool) {
	v, ok := o.fields[name]
	if !ok {
		return "", false
	}
	if v.Type != gjson.String {
		o.faults.add(o.at(name), "must be a string")
		return "", false
	}
	return v.String(), true
}

// truth reads a boolean field.
func (o object) truth(name string) (value, ok bool) {
	v, ok := o.fields[name]
	if !ok {
		return false, false
	}
	if !v.IsBool() {
		o.faults.add(o.at(name), "must be true or false")
		return false, false
	}
	return v.Bool(), true
}

// whole reads an integer field.
func (o object) whole(name string) (int64, bool) {
	v, ok := o.fields[name]
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v.Raw, 10, 64)
	if err != nil {
		o.faults.add(o.at(name), "must be a whole number")
		return 0, false
	}
	return n, true
}

// texts reads a field that maps strings to strings.
func (o object) texts(name string) map[string]string {
	v, ok := o.fields[name]
	if !ok {
		return nil
	}
	inner, ok := readObject(o.at(name), v, o.faults)
	if !ok {
		return nil
	}
	out := make(map[string]string, len(inner.fields))
	v.ForEach(func(key, value gjson.Result) bool {
		if value.Type != gjson.String {
			o.faults.add(inner.at(key.String()), "must be a string")
		}
		out[key.String()] = value.String()
		return true
	})
	return out
}
