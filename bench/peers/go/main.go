// The hub that Go tutorials show: a map of clients, a buffered channel and a goroutine for each, net/http's
// Flusher. A client whose channel is full misses the event.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Large enough for every burst that is measured: nothing may be lost.
const buffered = 256

var padding = strings.Repeat("x", 65536)

// Hub holds a channel per client.
type Hub struct {
	mutex   sync.Mutex
	clients map[chan string]struct{}
}

func (hub *Hub) join() chan string {
	events := make(chan string, buffered)
	hub.mutex.Lock()
	hub.clients[events] = struct{}{}
	hub.mutex.Unlock()
	return events
}

func (hub *Hub) leave(events chan string) {
	hub.mutex.Lock()
	delete(hub.clients, events)
	hub.mutex.Unlock()
}

func (hub *Hub) count() int {
	hub.mutex.Lock()
	defer hub.mutex.Unlock()
	return len(hub.clients)
}

func (hub *Hub) publish(data string) {
	hub.mutex.Lock()
	defer hub.mutex.Unlock()
	for events := range hub.clients {
		select {
		case events <- data:
		default: // too slow: it misses this one
		}
	}
}

func (hub *Hub) stream(w http.ResponseWriter, r *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "streaming is not supported", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	events := hub.join()
	defer hub.leave(events)
	flusher.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case data := <-events:
			if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
				return
			}
			flusher.Flush()
		}
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, which the time package keeps to itself.
func monotonic() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

// text is the data of event number seq, stamped now: size characters.
func text(seq, size int) string {
	head := fmt.Sprintf("%d %d ", seq, monotonic())
	return head + padding[:size-len(head)]
}

type publisher struct {
	hub *Hub
	seq int // one run at a time
}

func (p *publisher) run(w http.ResponseWriter, r *http.Request) {
	number := func(name string, otherwise float64) float64 {
		value, err := strconv.ParseFloat(r.URL.Query().Get(name), 64)
		if err != nil {
			return otherwise
		}
		return value
	}
	n, batch, size := int(number("n", 0)), int(number("batch", 1)), int(number("bytes", 128))
	rate, first, begin := number("rate", 0), p.seq, time.Now()
	for start := 0; start < n; start += batch {
		for i := start; i < n && i < start+batch; i++ {
			p.hub.publish(text(p.seq, size))
			p.seq++
		}
		if rate > 0 {
			due := begin.Add(time.Duration(float64(start+batch) / rate * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
	}
	answer(w, map[string]any{"first": first, "n": n})
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}

func main() {
	hub := &Hub{clients: map[chan string]struct{}{}}
	publisher := &publisher{hub: hub}
	http.HandleFunc("/events", hub.stream)
	http.HandleFunc("/publish", publisher.run)
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]int{"count": hub.count()})
	})
	http.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]bool{"pong": true})
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
