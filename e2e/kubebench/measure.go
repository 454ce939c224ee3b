package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandgate-dev/sandgate/e2e/figures"
)

// row is one line of the table.
func row(name string, took []time.Duration) {
	fmt.Printf("%-58s %5d %10s %10s %10s\n", name, len(took), figures.At(took, 50), figures.At(took, 95), figures.At(took, 99))
}

func heading(text string) {
	fmt.Printf("\n%-58s %5s %10s %10s %10s\n", text, "n", "p50", "p95", "p99")
}

var request = regexp.MustCompile(`^apiserver_request_total\{(.*)\} (\S+)$`)

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// writes are the API server's writes up to now by verb and resource.
func writes(text string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		m := request.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		of := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[1], -1) {
			of[l[1]] = l[2]
		}
		switch of["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
		default:
			continue
		}
		what := of["verb"] + " " + of["resource"]
		if sub := of["subresource"]; sub != "" {
			what += "/" + sub
		}
		n, _ := strconv.ParseFloat(m[2], 64)
		out[what] += n
	}
	return out
}

// sum is that of a metric's series whose labels hold a text.
func sum(text, name, with string) (out float64) {
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok && strings.HasPrefix(series, name+"{") && strings.Contains(series, with) {
			n, _ := strconv.ParseFloat(value, 64)
			out += n
		}
	}
	return out
}

// written prints the writes between two moments, for each create.
func written(before, after map[string]float64, creates int) {
	each := map[string]float64{}
	var total float64
	for what, n := range after {
		if d := n - before[what]; d >= float64(creates)/100 {
			each[what] = d / float64(creates)
			total += each[what]
		}
	}
	what := slices.SortedFunc(maps.Keys(each), func(a, b string) int { return cmp.Or(cmp.Compare(each[b], each[a]), cmp.Compare(a, b)) })
	fmt.Printf("  API writes for each (create, kill and refill together): %.2f\n", total)
	for _, w := range what {
		fmt.Printf("    %-32s %5.2f\n", w, each[w])
	}
}

// processor is the time that the processes of this network namespace have had, by their names.
func processor() map[string]time.Duration {
	own, _ := os.Readlink("/proc/self/ns/net")
	out := map[string]time.Duration{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if ns, err := os.Readlink(dir + "/ns/net"); err != nil || ns != own {
			continue
		}
		text, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		name, rest, _ := strings.Cut(string(text), ") ")
		_, name, _ = strings.Cut(name, "(")
		if args, err := os.ReadFile(dir + "/cmdline"); err == nil && name == "kubebench" && strings.Contains(string(args), "\x00stub") {
			name = "stub"
		}
		f := strings.Fields(rest)
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		out[name] += time.Duration(user+system) * 10 * time.Millisecond // a tick is a hundredth of a second everywhere
	}
	return out
}

// busy prints who had the processors between two moments.
func busy(before map[string]time.Duration, took time.Duration, creates int) {
	after := processor()
	used := map[string]time.Duration{}
	var total time.Duration
	for name, t := range after {
		used[name] = t - before[name]
		total += used[name]
	}
	names := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return cmp.Compare(used[b], used[a]) })
	fmt.Printf("  processors: %.2f of %d busy, %.1f ms for each create:", total.Seconds()/took.Seconds(), runtime.NumCPU(), total.Seconds()*1000/float64(creates))
	for _, name := range names {
		if share := used[name].Seconds() / total.Seconds(); share >= 0.01 {
			fmt.Printf(" %s %.0f%%", name, share*100)
		}
	}
	fmt.Println()
}
