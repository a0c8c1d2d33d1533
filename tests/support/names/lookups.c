/* Looks up HOST in the way that MODE says, connects to the first address, and asks for /MODE twice, on two
 * connections. Prints when the look-up began and ended, in nanoseconds since the epoch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *look_up(void *host)
{
	struct addrinfo *found = NULL;

	getaddrinfo(host, "80", NULL, &found);
	return found;
}

static struct in_addr address_of(const char *mode, const char *host)
{
	struct in_addr none = {0};
	struct hostent *entry = NULL;

	if (!strcmp(mode, "gethostbyname"))
		entry = gethostbyname(host);
	else if (!strcmp(mode, "gethostbyname2"))
		entry = gethostbyname2(host, AF_INET);
	else {
		struct addrinfo hints = {.ai_family = AF_INET}, *found = NULL;

#ifdef __GLIBC__
		if (!strcmp(mode, "getaddrinfo_a")) {
			struct gaicb request = {.ar_name = host, .ar_service = "80", .ar_request = &hints}, *list[] = {&request};
			if (getaddrinfo_a(GAI_WAIT, list, 1, NULL))
				return none;
			found = request.ar_result;
		} else
#endif
		if (getaddrinfo(host, "80", &hints, &found))
			return none;
		return ((struct sockaddr_in *)found->ai_addr)->sin_addr;
	}
	if (!entry)
		return none;
	return *(struct in_addr *)entry->h_addr_list[0];
}

static void ask(struct in_addr address, int port, const char *mode, int number)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
	char text[512];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		exit(3);
	int n = snprintf(text, sizeof(text), "GET /%s/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", mode, number);
	if (write(fd, text, n) != n)
		exit(4);
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

int main(int argc, char **argv)
{
	const char *mode = argv[1], *host = argv[2];

	if (!strcmp(mode, "cancelled")) {
		/* Threads that are cancelled while they wait for the name server: their stacks are unwound. */
		for (int i = 0; i < 3; i++) {
			pthread_t thread;
			void *result;
			pthread_create(&thread, NULL, look_up, (void *)host);
			usleep(30000);
			pthread_cancel(thread);
			pthread_join(thread, &result);
			if (result != PTHREAD_CANCELED)
				return 5;
		}
	}
	long long began = now();
	struct in_addr address = address_of(mode, host);
	long long ended = now();
	if (!address.s_addr)
		return 2;
	ask(address, atoi(argv[3]), mode, 0);
	ask(address, atoi(argv[3]), mode, 1);
	printf("%lld %lld\n", began, ended);
	return 0;
}
