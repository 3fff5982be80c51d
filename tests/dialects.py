"""Names the scenarios that run only with servers of 2023.

All other scenarios of these modules run with both kinds of server: see `conftest.py`. The ones
below test what newer servers do differently or not at all: generation parameters, votes and
summaries, ids chosen by the client, finish reasons, events of text-generation-inference, terms,
how a stopped answer is stored, and which requests are sent. `test_shells_2025` tests the newer
counterparts.
"""

ONLY_2023: dict[str, set[str]] = {
    "test_shells_chat": {
        "test_chat_accepts_a_string",
        "test_environment_configures_the_client",
        "test_events_include_special_tokens",
        "test_model_can_be_set_per_call",
        "test_parameters_of_client_and_call_are_sent",
        "test_requests_of_two_chats_are_exact",
        "test_stream_yields_the_texts_of_the_tokens",
        "test_surrogates_in_two_tokens_are_joined",
    },
    "test_shells_reading": {
        "test_texts_and_tokens_can_alternate",
    },
    "test_shells_turns": {
        "test_history_and_vote_wait_until_a_stopped_turn_is_stored",
        "test_message_after_two_stops_is_not_overwritten",
        "test_nothing_is_sent_during_a_generation",
    },
    "test_shells_conversations": {
        "test_concurrent_first_uses_create_one_conversation",
        "test_conversation_continues_after_leaving_a_stream",
        "test_conversation_keeps_its_history",
        "test_deleted_conversation_raises_not_found",
        "test_retry_can_be_streamed",
        "test_session_can_be_used_by_another_client",
        "test_stop_ends_the_wait_for_a_stopped_turn",
        "test_stop_from_another_thread_or_task_keeps_the_partial_answer",
        "test_stop_in_the_reading_thread_or_task_keeps_the_partial_answer",
        "test_stop_of_a_single_stream_ends_it",
        "test_stop_without_a_running_answer_sends_nothing",
        "test_unread_stream_does_not_block_the_conversation",
    },
    "test_shells_service": {
        "test_answer_can_be_voted_on",
        "test_client_lists_models",
        "test_client_reads_settings",
        "test_conversation_can_be_renamed_and_summarized",
        "test_conversation_can_be_shared_and_copied",
        "test_conversations_can_be_listed_and_deleted",
        "test_failed_web_search_does_not_fail_the_message",
        "test_prompt_of_an_answer_can_be_read",
        "test_stop_during_a_web_search_ends_the_call",
        "test_unknown_model_of_a_call_is_an_error",
        "test_web_search_precedes_the_answer",
    },
    "test_shells_session": {
        "test_concurrent_calls_open_one_session",
        "test_concurrent_calls_reopen_a_forgotten_session_once",
        "test_concurrent_calls_share_a_failure_to_open_the_session",
        "test_resumed_session_that_was_forgotten_is_reopened",
        "test_stop_ends_the_wait_for_the_opening_call",
    },
    "test_shells_settings": set(),
    "test_shells_leaving": {
        "test_concurrent_reader_is_rejected",
        "test_ctrl_c_at_the_start_of_creation_deletes_the_conversation",
        "test_finished_answer_does_not_wait_for_a_hanging_server",
        "test_stop_after_the_end_does_nothing",
        "test_stream_can_be_ended_by_another_thread_at_any_moment",
    },
    "test_shells_recovery": {
        "test_conversation_continues_after_a_lost_answer",
        "test_deleted_conversation_is_not_recovered",
        "test_recovery_is_limited_if_nothing_is_stored",
        "test_recovery_waits_for_a_running_generation",
        "test_stop_during_recovery",
    },
    "test_shells_limits": set(),
    "test_shells_retries": {
        "test_forgotten_session_is_opened_again_once",
        "test_lost_message_is_sent_again_in_its_place",
        "test_lost_message_is_sent_again_only_once",
        "test_overload_before_the_answer_is_retried",
        "test_permanent_error_is_not_retried",
        "test_running_generation_is_stopped_before_sending_again",
        "test_small_request_is_retried",
        "test_wait_before_a_creation_can_be_ended_by_another_thread",
    },
    "test_shells_refusals": {
        "test_error_class_is_the_same_as_status_and_as_event",
        "test_overload_during_an_answer_is_not_retried",
    },
    "test_shells_closing": {
        "test_close_during_the_last_request_keeps_a_complete_answer",
        "test_close_waits_for_a_stream_being_left",
        "test_total_timeout_limits_a_small_operation",
        "test_total_timeout_limits_the_attempts_of_a_small_operation",
    },
    "test_shells_privacy": {
        "test_errors_show_no_secrets",
    },
    "test_shells_logging": {
        "test_each_request_is_logged_with_status_and_time",
        "test_retries_and_recovery_are_logged",
    },
    "test_shells_errors": {
        "test_405_means_terms_or_a_wrong_method",
        "test_error_in_a_hook_holds_no_httpx_objects",
        "test_error_status_raises_its_class",
        "test_stream_that_ends_early_is_an_error",
        "test_tokens_before_an_error_are_returned_first",
    },
}
