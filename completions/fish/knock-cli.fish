complete -c knock-cli -s c -l config -d 'The configuration with the rules; default: config.json in the current directory, else in the directory of this program' -r -F
complete -c knock-cli -s r -l rule -d 'Knock the sequence of this rule of the configuration' -r
complete -c knock-cli -s h -l host -d 'The host: a name or an address' -r
complete -c knock-cli -s s -l sequence -d 'Knock these ports, separated by commas, instead of the sequence of a rule' -r
complete -c knock-cli -s d -l delay -d 'The pause between two knocks, in milliseconds. Each knock is a separate flow, and a network can send flows along different routes: without a pause a later knock can overtake an earlier one' -r
complete -c knock-cli -s 4 -l ipv4 -d 'Send the knocks to the IPv4 address of the host'
complete -c knock-cli -s 6 -l ipv6 -d 'Send the knocks to the IPv6 address of the host'
complete -c knock-cli -s u -l udp -d 'Send every knock by UDP'
complete -c knock-cli -s v -l verbose -d 'Print each knock and its destination address'
complete -c knock-cli -s q -l quiet -d 'Print only errors'
complete -c knock-cli -l help -d 'Print this help'
complete -c knock-cli -s V -l version -d 'Print version'
