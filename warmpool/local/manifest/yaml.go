package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what one document may expand to through aliases, which may even hold themselves.
const (
	maxValues = 50_000
	maxDepth  = 64
)

// problem is a fault within a document.
type problem struct {
	line   int
	field  string
	reason string
}

// document is one YAML document: its values as JSON knows them, and where each field stands.
type document struct {
	root  *yaml.Node
	value any
	lines map[string]int // by field path; "" is the document
	// quiet documents hold secrets, or may do so under a misspelt kind: nothing of their content may be quoted.
	quiet    bool
	problems []problem
}

func (d *document) problem(line int, field, format string, args ...any) {
	d.problems = append(d.problems, problem{line, field, fmt.Sprintf(format, args...)})
}

// at is the line of a field, or of the nearest field around it that is there.
func (d *document) at(field string) int {
	for {
		if line, ok := d.lines[field]; ok {
			return line
		}
		cut := strings.LastIndexAny(field, ".[")
		if cut < 0 {
			return d.lines[""]
		}
		field = field[:cut]
	}
}

var (
	lineNumber = regexp.MustCompile(`line (\d+)`)
	secretInIt = regexp.MustCompile(`Secret`)
)

// parse takes a file apart into its documents; empty ones are left out.
func parse(raw []byte) ([]*document, *problem) {
	var docs []*document
	for dec := yaml.NewDecoder(bytes.NewReader(raw)); ; {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, syntax(raw, err)
		}
		if len(node.Content) == 0 || node.Content[0].ShortTag() == "!!null" {
			continue
		}
		objects, wrong := listed(node.Content[0])
		if wrong != nil {
			return nil, wrong
		}
		left := &budget{values: maxValues, depth: maxDepth}
		for _, root := range objects {
			docs = append(docs, read(root, left))
		}
	}
}

// read makes a document of one object.
func read(root *yaml.Node, left *budget) *document {
	d := &document{root: root, lines: map[string]int{"": root.Line}}
	d.quiet = !slices.Contains([]string{"SandboxSet", "PersistentVolume", "PersistentVolumeClaim"}, kindOf(root))
	d.value = d.convert(root, "", left)
	return d
}

// listed are the objects of a List, as `kubectl get -o yaml` writes it, else the one object itself.
func listed(root *yaml.Node) ([]*yaml.Node, *problem) {
	if kindOf(root) != "List" {
		return []*yaml.Node{root}, nil
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		items := resolved(root.Content[i+1])
		if root.Content[i].Value != "items" || items.Kind != yaml.SequenceNode {
			continue
		}
		var out []*yaml.Node
		for _, item := range items.Content {
			out = append(out, resolved(item))
		}
		return out, nil
	}
	return nil, &problem{line: root.Line, field: "items", reason: "a List wants items, a list of objects"}
}

// syntax is a parser's error without what it might quote of a secret.
func syntax(raw []byte, err error) *problem {
	p := &problem{reason: "not valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		p.line, _ = strconv.Atoi(m[1])
	}
	if secretInIt.Match(raw) {
		p.reason = "not valid YAML (details are withheld: there is a Secret in the file)"
	}
	return p
}

// kindOf is the document's kind as written, empty when it has none.
func kindOf(root *yaml.Node) string {
	if root.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "kind" {
			return resolved(root.Content[i+1]).Value
		}
	}
	return ""
}

func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// budget is what is left of a document's bounds.
type budget struct {
	values, depth int
	told          bool
}

// spend takes one value, and says whether it was there to take. Once it was not, it never is again.
func (b *budget) spend() bool {
	if b.depth <= 0 {
		b.values = 0
	}
	b.values--
	return b.values >= 0
}

// convert is a node's value in terms of JSON. A scalar is what YAML 1.2 says it is: dates stay text.
func (d *document) convert(n *yaml.Node, field string, left *budget) any {
	if !left.spend() {
		if !left.told {
			d.problem(n.Line, "", "the document is too large, or nested too deeply, once its aliases are filled in")
		}
		left.told = true
		return nil
	}
	left.depth--
	defer func() { left.depth++ }()
	if _, seen := d.lines[field]; !seen {
		d.lines[field] = n.Line
	}
	n = resolved(n)
	switch n.Kind {
	case yaml.MappingNode:
		return d.mapping(n, field, left)
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for i, item := range n.Content {
			out = append(out, d.convert(item, fmt.Sprintf("%s[%d]", field, i), left))
		}
		return out
	}
	return d.scalar(n, field)
}

func (d *document) mapping(n *yaml.Node, field string, left *budget) any {
	out := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolved(n.Content[i])
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			d.problem(key.Line, field, "a key must be text; merge keys (<<) are not supported")
			continue
		}
		if _, twice := out[key.Value]; twice {
			d.problem(key.Line, d.below(field, key.Value), "given twice")
			continue
		}
		d.lines[join(field, key.Value)] = key.Line
		out[key.Value] = d.convert(n.Content[i+1], join(field, key.Value), left)
	}
	return out
}

func (d *document) scalar(n *yaml.Node, field string) any {
	var out any
	var err error
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var v bool
		err = n.Decode(&v)
		out = v
	case "!!int":
		var v int64
		err = n.Decode(&v)
		out = v
	case "!!float":
		var v float64
		err = n.Decode(&v)
		out = v
		if v != v || v > 1e308 || v < -1e308 {
			err = errors.New("not finite")
		}
	default:
		return n.Value
	}
	if err != nil {
		d.problem(n.Line, field, "a number that is out of range, or not one at all")
		return nil
	}
	return out
}

// below is the path of a key in a field, without the key where it might be a secret on the wrong line.
func (d *document) below(field, key string) string {
	if d.quiet {
		return field
	}
	return join(field, key)
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}
