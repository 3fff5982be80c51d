"""Which scenarios of the shells run with servers of 2023 only.

All others of these modules run with servers of both kinds: see `conftest.py`. Those below are about
what the newer servers do in another way, or not at all: generation parameters, votes and summaries,
ids that the client chooses, why an answer ended, events of text-generation-inference, terms, how a
stopped answer is stored, and which requests are sent. `test_shells_2025` has what takes their
place.
"""

ONLY_2023: dict[str, set[str]] = {
    "test_shells_chat": {
        "test_a_stream_as_a_proxy_may_leave_it",
        "test_an_empty_answer_is_whole",
        "test_another_model_for_one_call",
        "test_chat_with_messages",
        "test_halves_of_a_character_in_two_tokens",
        "test_the_environment",
        "test_why_an_answer_ended",
    },
    "test_shells_reading": {"test_texts_and_tokens_in_turn"},
    "test_shells_turns": {
        "test_a_message_after_a_cancellation_is_not_overwritten",
        "test_after_two_stops_in_a_row_the_third_message_is_not_overwritten",
    },
    "test_shells_conversations": {
        "test_a_session_is_kept_across_clients",
        "test_leaving_a_stream_stops_it_and_the_conversation_goes_on",
        "test_many_first_uses_at_once_make_one_conversation",
        "test_retry_as_a_stream",
        "test_stop_in_the_reading_thread_or_task",
        "test_the_server_no_longer_has_it",
    },
    "test_shells_service": {
        "test_a_web_search_that_cannot_be_read_is_an_error_and_sends_no_message",
        "test_an_unknown_model_of_a_call",
        "test_conversations_and_deleting_them_all",
        "test_prompt_preview",
        "test_settings",
        "test_sharing",
        "test_titles",
        "test_what_the_callers_function_raises_ends_the_call",
    },
    "test_shells_session": {"test_many_share_the_failure_to_open_it"},
    "test_shells_settings": set(),
    "test_shells_leaving": {
        "test_a_whole_or_stopped_answer_does_not_wait_for_a_server_that_hangs",
        "test_ended_from_elsewhere_at_any_moment",
    },
    "test_shells_recovery": {
        "test_a_conversation_that_is_gone_is_not_recovered",
        "test_after_an_answer_that_was_lost_the_conversation_goes_on",
        "test_an_answer_that_is_still_generated_is_waited_for",
        "test_an_error_of_the_server_is_not_looked_for",
        "test_stop_while_the_answer_is_looked_for",
        "test_where_the_server_has_nothing_the_wait_is_bounded",
        "test_white_space_that_was_received_is_not_lost_nor_doubled",
    },
    "test_shells_limits": set(),
    "test_shells_retries": {
        "test_a_forgotten_session_is_opened_again_once",
        "test_a_lost_message_is_asked_again_in_its_place",
        "test_a_message_that_was_refused_for_want_of_room",
        "test_a_small_request_is_sent_again",
        "test_a_wait_before_a_creation_is_ended_from_elsewhere",
        "test_an_answer_that_had_begun_is_not_asked_again",
        "test_one_that_still_generates_is_stopped_before_it_is_asked_again",
        "test_other_error_events_are_raised",
    },
    "test_shells_refusals": {"test_one_cause_has_one_class"},
    "test_shells_closing": {
        "test_closing_during_the_last_request_leaves_a_whole_answer_whole",
        "test_closing_waits_for_a_stream_that_is_being_left",
        "test_the_total_bounds_a_small_operation",
        "test_the_total_bounds_the_attempts_of_a_small_operation",
    },
    "test_shells_privacy": set(),
    "test_shells_logging": {"test_each_request_with_its_status_and_time"},
    "test_shells_errors": {
        "test_a_200_of_another_kind",
        "test_a_connection_lost_after_the_final_event",
        "test_a_line_that_is_no_event",
        "test_a_session_that_was_forgotten_is_opened_again",
        "test_a_stream_that_ends_early",
        "test_an_error_event",
        "test_an_error_of_a_hook_holds_no_httpx",
        "test_the_tokens_before_an_error_come_out_first",
    },
}
